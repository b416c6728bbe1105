"""Keeps instances that are larger than their lanes, while they arrive: a file each.

Wanted: however large an instance is, and however many there are at once, what is kept for sealing
stays kept.
Guaranteed: each piece is asked for (spool/free_space.py) before it is written, with what the
joining and an encryption will take; one that would pass the hard mark is refused there, its file is
deleted, and the rest of its data set is read and dropped. Files are deleted on the thread that
joins: gigabytes take their time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from fastjmix.errors import StorageFull
from fastjmix.failpoints import reach
from fastjmix.spool import Room, Spill, Spool, seal_bytes

SPILL_INODES: Final = 1
"""Inodes of a spilled instance: it has a file of its own."""


@dataclass(slots=True)
class Spilling:
    """One spilled instance. `spill` is None when it was refused.

    `twice`: its envelope will be encrypted, and then it is there a second time.
    """

    twice: bool
    spill: Spill | None = None

    @property
    def file(self) -> Spill:
        """Raises OSError when it was refused."""
        if self.spill is None:
            raise StorageFull("the instance's spill file could not be written")
        return self.spill

    @property
    def reserved(self) -> int:
        """Bytes that it will take beyond what is written."""
        if self.spill is None:
            return 0
        return self.spill.join_bytes + (self.spill.size if self.twice else 0)


class Spills:
    """The spilled instances of one packer, by lane. `aside` runs work that takes long."""

    def __init__(
        self, spool: Spool, room: Room, name: str, aside: Callable[[Callable[[], None]], None]
    ) -> None:
        self._spool = spool
        self._room = room
        self._name = name
        self._aside = aside
        self._of: dict[int, Spilling] = {}
        self._ended: list[Spilling] = []

    @property
    def reserved(self) -> int:
        """Bytes that all of them will take beyond what is written; those being joined too."""
        if not self._of and not self._ended:
            return 0
        return sum(one.reserved for one in (*self._of.values(), *self._ended))

    def __contains__(self, lane: int) -> bool:
        return lane in self._of

    def begin(self, lane: int, *, twice: bool) -> None:
        """Begins to spill an instance that has become too large for its lane."""
        self._of[lane] = Spilling(twice)

    def open(self, lane: int) -> None:
        """Makes its file. Raises OSError."""
        if not self._room.fits(seal_bytes(1, 1), SPILL_INODES):
            raise self.full()
        self._of[lane].spill = self._spool.drafts.new_spill(self._name)
        self._room.spend(0, files=SPILL_INODES)

    def append(self, lane: int, buffers: Sequence[memoryview]) -> None:
        """Writes more of it; nothing, when it was refused. Raises OSError."""
        one = self._of[lane]
        if one.spill is None:
            return
        size = sum(map(len, buffers))
        more = size * (2 if one.twice else 1)
        if not one.spill.shrinks:
            more += size
        if not self._room.fits(more + seal_bytes(1, 1)):
            raise self.full()
        one.spill.append(buffers)
        self._room.spend(size)
        reach("packer.spilled")

    def full(self) -> StorageFull:
        """Returns the error to raise when a mark would be passed."""
        what = "nearly full" if self._room.lacking == "space" else "nearly out of inodes"
        return StorageFull(f"the storage directory is {what}")

    def whole(self, lane: int) -> Spilling:
        """Returns one that has arrived."""
        return self._of[lane]

    def take(self, lane: int) -> None:
        """Takes an instance that is being joined, and frees its lane for another; then call
        `drop`."""
        self._ended.append(self._of.pop(lane))

    def refuse(self, lane: int) -> None:
        """Refuses the rest: the file is deleted, and further bytes are dropped."""
        one = self._of[lane]
        spill, one.spill = one.spill, None
        self._delete(spill)

    def forget(self, lane: int) -> None:
        """Deletes an instance whose association ended inside it."""
        one = self._of.pop(lane, None)
        if one is not None:
            self._delete(one.spill)

    def drop(self, one: Spilling) -> None:
        """Deletes the file of an instance that was joined, or could not be."""
        self._ended.remove(one)
        self._delete(one.spill)

    def _delete(self, spill: Spill | None) -> None:
        if spill is not None:
            self._aside(spill.drop)
