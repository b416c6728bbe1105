"""Keeps the files of instances that are larger than their lanes, while they arrive.

Wanted: however large an instance is, and however many there are at once, the space that is kept for
sealing stays free.
Guaranteed: before a piece is written, there is free space for it (spool/free_space.py) and for its
joining and encryption. An instance with a piece that would pass the hard mark is refused: its file
is deleted, and the rest of its data set is read and dropped. Files are deleted on the thread that
joins, since deleting gigabytes takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fastjmix.errors import StorageFull
from fastjmix.failpoints import reach
from fastjmix.packer.free_space import require_space
from fastjmix.packer.worker import Worker
from fastjmix.spool import FreeSpace, Spill, Spool, seal_bytes

SPILL_INODES: Final = 1
"""Inodes of a spilled instance: its file."""


@dataclass(slots=True)
class SpilledInstance:
    """One spilled instance. `spill`: its file; None when it was refused.

    `encrypts`: its envelope will be encrypted, so that the disk will hold it twice.
    """

    encrypts: bool
    spill: Spill | None = None

    @property
    def file(self) -> Spill:
        """Its file. Raises OSError when it was refused."""
        if self.spill is None:
            raise StorageFull("the instance's spill file could not be written")
        return self.spill

    @property
    def reserved(self) -> int:
        """Bytes of the disk that it will take beyond those that are written."""
        if self.spill is None:
            return 0
        return self.spill.join_bytes + (self.spill.size if self.encrypts else 0)


class SpilledInstances:
    """The spilled instances of the packer called `name`, by lane; `worker` joins them."""

    def __init__(self, spool: Spool, space: FreeSpace, name: str, worker: Worker) -> None:
        self._spool = spool
        self._space = space
        self._name = name
        self._worker = worker
        self._arriving: dict[int, SpilledInstance] = {}
        self._joining: list[SpilledInstance] = []

    @property
    def reserved(self) -> int:
        """Bytes of the disk that all of them will take beyond those that are written."""
        if not self._arriving and not self._joining:
            return 0
        return sum(one.reserved for one in (*self._arriving.values(), *self._joining))

    def __contains__(self, lane: int) -> bool:
        return lane in self._arriving

    def __getitem__(self, lane: int) -> SpilledInstance:
        return self._arriving[lane]

    def add(self, lane: int, *, encrypts: bool) -> None:
        """Adds an instance that has become too large for its lane; it has no file yet."""
        self._arriving[lane] = SpilledInstance(encrypts)

    def create_file(self, lane: int) -> None:
        """Creates the file of an instance. Raises OSError."""
        require_space(self._space, seal_bytes(1, 1), SPILL_INODES)
        self._arriving[lane].spill = self._spool.drafts.new_spill(self._name)
        self._space.spend(0, files=SPILL_INODES)

    def append(self, lane: int, buffers: Sequence[memoryview]) -> None:
        """Writes more of an instance; nothing, when it was refused. Raises OSError."""
        one = self._arriving[lane]
        if one.spill is None:
            return
        size = sum(map(len, buffers))
        more = size * (2 if one.encrypts else 1)
        if not one.spill.shrinks:
            more += size
        require_space(self._space, more + seal_bytes(1, 1))
        one.spill.append(buffers)
        self._space.spend(size)
        reach("packer.spilled")

    def refuse(self, lane: int) -> None:
        """Refuses an instance that is arriving: deletes its file, and drops further bytes."""
        one = self._arriving[lane]
        spill, one.spill = one.spill, None
        self._delete(spill)

    def forget(self, lane: int) -> None:
        """Deletes what there is of a lane's instance, if it was spilled."""
        one = self._arriving.pop(lane, None)
        if one is not None:
            self._delete(one.spill)

    def begin_join(self, lane: int) -> None:
        """Frees the lane of an instance that is being joined for the next instance."""
        self._joining.append(self._arriving.pop(lane))

    def end_join(self, one: SpilledInstance) -> None:
        """Deletes the file of an instance that was joined, or could not be."""
        self._joining.remove(one)
        self._delete(one.spill)

    def _delete(self, spill: Spill | None) -> None:
        if spill is not None:
            self._worker.submit(spill.drop)
