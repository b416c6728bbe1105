"""Measures free space under the spool, in bytes and in inodes, against two marks of each.

Wanted: a sender is refused while the disk is full, and a promised instance can always be sealed.
Guaranteed: below the soft mark no new associations are accepted, until free space is a tenth above
it again. Below the hard mark, or where an instance would pass it, no instances are accepted. The
space that sealing, joining, encrypting and delivering will still take, in all processes together
(`counters`), is subtracted before another instance may take it; so sealing is always possible. An
instance of an open envelope takes no inode, and is not refused for want of one. Before free space
reaches the soft mark, delivered envelopes are deleted (`wanted`). A file system that reports no
number of inodes has no marks for them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from fastjmix.config import Config

SOFT_RESERVE: Final = (5 << 30, 0.05)
"""Below this much free space (bytes, or this part of the file system if that is less) new
associations are rejected for now, unless the configuration says how much."""

HARD_RESERVE: Final = (1 << 30, 0.01)
"""Below this much free space instances are answered with A700, unless the configuration says how
much. The rest is for sealing."""

SOFT_INODES: Final = 10_000
"""The soft mark of inodes, less those that are reserved: enough for 2,500 envelopes, or the same
part of the file system if that is less."""

HARD_INODES: Final = 1_000
"""The hard mark of inodes: below this many, or the same part, no file is made for an instance."""

INODES_MIN: Final = (16, 8)
"""The least values of both marks, for small file systems. Eight inodes are a draft that recovery
copies (four), the damage that it keeps (three), and a probe."""

DRAFT_INODES: Final = 4
"""A directory, the archive, its recipe, its journal."""

OPEN_INODES: Final = 3
"""Inodes that an open envelope will take: its ticket, its provenance, and its other form where it
is encrypted. They are made before any file of the draft is deleted."""

WAITING_INODES: Final = 1
"""Inodes that an envelope in outbox/ will take: its receipt, before its ticket is deleted."""

POST_INODES: Final = 4
"""Inodes of an envelope that is posted: its archive, its ticket, its provenance, its receipt."""

SENT_INODES: Final = 3
"""Inodes that a delivered envelope gives back: its archive, its receipt, its provenance."""

RESUME: Final = 1.1
"""Times the soft mark: this much must be free again before associations are accepted."""

TRIM: Final = 1.05
"""Times the soft mark: below this, delivered envelopes are deleted until RESUME times the mark is
free. So each round frees a good deal, and the soft mark is reached only when nothing is left to
delete."""

MEASURE_SECS: Final = 0.25
"""How long a measurement of free space is used; the bytes written meanwhile are subtracted."""

FAR_BYTES: Final = 4 << 30
"""With this much above the hard mark at the last measurement, no writer reaches the mark before the
next one. The writes of other processes since then are not counted."""

SEAL_BYTES: Final = 64 << 10
"""Bytes that the seal of an envelope without instances takes: documents, a ticket, a directory's
blocks."""

SEAL_BYTES_EACH: Final = 4224
"""Bytes that it takes for each instance: about 150 in the central directory, 200 in the manifest,
300 in the metadata, 130 in the provenance; and up to 2500 in the metadata, and 750 in the
provenance, where each has a series and an association of its own, whose texts are as long as
dicom/dataset.py keeps them, in characters that JSON writes with six bytes."""


def seal_bytes(envelopes: int, instances: int) -> int:
    """Returns the bytes that sealing this many envelopes with this many instances may take."""
    return envelopes * SEAL_BYTES + instances * SEAL_BYTES_EACH


class Counters(Protocol):
    """Counts of the bytes and files that all processes have written and will write (Stats)."""

    def add(self, name: str, amount: int = 1) -> None: ...
    def total(self, name: str) -> int: ...


class Marks(NamedTuple):
    """The soft and the hard mark of bytes or inodes."""

    soft: int
    hard: int


class Measured(NamedTuple):
    """Free and total bytes, and their marks; the same of inodes, without marks where the file
    system has no number of them."""

    free: int
    total: int
    marks: Marks
    free_inodes: int
    total_inodes: int
    inode_marks: Marks | None


class Margin(NamedTuple):
    """Free bytes or inodes, how many of them seals will take, and the marks. The soft mark is
    compared with `free`, the hard mark with `free` less `reserved`."""

    free: int
    reserved: int
    soft: int
    hard: int


class _Low:
    """Whether a resource is low: below its mark, and then until RESUME times the mark is free."""

    __slots__ = ("_low",)

    def __init__(self) -> None:
        self._low = False

    def look(self, free: int, mark: int) -> bool:
        self._low = free < (mark * RESUME if self._low else mark)
        return self._low


class FreeSpace:
    """Free space on the file system of `root`. `soft` and `hard` are bytes; None: the defaults.

    `counters` are shared with the other processes that write there; None: no other process does.
    """

    def __init__(
        self,
        root: Path,
        soft: int | None = None,
        hard: int | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._root = root
        self._given = soft, hard
        self._counters = counters
        self._measured_at = 0.0
        self._free = 0
        self._inodes = 0
        self._total = 0
        self._total_inodes = 0
        self._marks = Marks(0, 0)
        self._inode_marks: Marks | None = None
        self._written = 0
        self._made = 0
        self._reserved = 0
        self._spent = 0
        self._space_low, self._inodes_low = _Low(), _Low()
        self.lacking = "space"
        """The resource of which there was too little at the last question: space or inodes."""

    @classmethod
    def of(cls, config: Config, counters: Counters | None = None) -> FreeSpace:
        """Returns the free space of a node's storage, with its configured marks."""
        soft, hard = config.soft_reserve_bytes, config.hard_reserve_bytes
        return cls(config.storage_dir, soft, hard, counters)

    def configure(self, config: Config) -> None:
        """Goes by the marks of another configuration from now on."""
        self._given = config.soft_reserve_bytes, config.hard_reserve_bytes
        self._measured_at = 0.0

    # -- what is free ----------------------------------------------------------------------------

    def _measure(self) -> None:
        now = time.monotonic()
        if now - self._measured_at <= MEASURE_SECS:
            return
        names = ("storage_bytes_total", "storage_files_total", "bytes_reserved")
        self._written, self._made, self._reserved = self._count(*names)
        self._spent = 0
        found = os.statvfs(self._root)
        self._free = found.f_bavail * found.f_frsize
        self._inodes = found.f_favail
        self._total = size = found.f_blocks * found.f_frsize
        self._total_inodes = found.f_files
        soft, hard = self._given
        self._marks = Marks(
            int(min(SOFT_RESERVE[0], SOFT_RESERVE[1] * size)) if soft is None else soft,
            int(min(HARD_RESERVE[0], HARD_RESERVE[1] * size)) if hard is None else hard,
        )
        self._inode_marks = _inode_marks(found.f_files) if found.f_files else None
        self._measured_at = now

    def _count(self, *names: str) -> list[int]:
        counters = self._counters
        return [0] * len(names) if counters is None else [counters.total(name) for name in names]

    def _bytes(self) -> int:
        """Returns the free bytes: those of the last measurement less those written since."""
        self._measure()
        (written,) = self._count("storage_bytes_total")
        return self._free - self._spent - (written - self._written)

    def _files(self) -> int:
        """Returns the free inodes, less those that sealing and delivering will take."""
        self._measure()
        names = ("storage_files_total", "inodes_reserved", "outbox_envelopes")
        made, reserved, waiting = self._count(*names)
        return self._inodes - (made - self._made) - reserved - waiting * WAITING_INODES

    def measured(self) -> Measured:
        """Returns what is free now, and the marks. Raises OSError."""
        free, inodes = self._bytes(), self._files()
        return Measured(
            free, self._total, self._marks, inodes, self._total_inodes, self._inode_marks
        )

    def margins(self) -> dict[str, Margin]:
        """Returns what is free of "space" and, where the file system counts them, of "inodes".
        Raises OSError."""
        reserved = sum(self._count("bytes_reserved"))
        found = {"space": Margin(self._bytes(), reserved, *self._marks)}
        if self._inode_marks is not None:
            found["inodes"] = Margin(self._files(), 0, *self._inode_marks)
        return found

    # -- the marks -------------------------------------------------------------------------------

    def low(self) -> bool:
        """Returns whether free space is below a soft mark: accept no new associations. Raises
        OSError."""
        free, inodes, marks = self._bytes(), self._files(), self._inode_marks
        few = marks is not None and self._inodes_low.look(inodes, marks.soft)
        little = self._space_low.look(free, self._marks.soft)
        self.lacking = "space" if little else "inodes"
        return little or few

    def exhausted(self, need: int = 0) -> bool:
        """Returns whether `need` more bytes pass the hard mark: accept no instances. Raises
        OSError."""
        self._measure()
        spare = self._free - self._reserved - self._spent - need - self._marks.hard
        if spare > FAR_BYTES:
            return False
        self.lacking = "space"
        return self._bytes() - need - sum(self._count("bytes_reserved")) < self._marks.hard

    def fits(self, size: int, inodes: int = 0) -> bool:
        """Returns whether this much more can be written above both hard marks. Raises OSError."""
        if self.exhausted(size):
            return False
        if not inodes or self._inode_marks is None:
            return True
        self.lacking = "inodes"
        return self._files() - inodes >= self._inode_marks.hard

    def take(self, size: int) -> bool:
        """Counts bytes as written, and returns whether they may be. Raises OSError."""
        self.spend(size)
        return not self.exhausted()

    def wanted(self) -> int:
        """Returns the bytes of delivered envelopes that are to be deleted now. Raises OSError."""
        return _wanted(self._bytes(), self._marks.soft)

    def wanted_inodes(self) -> int:
        """Returns the inodes of delivered envelopes that are to be deleted now. Raises OSError."""
        free = self._files()
        return _wanted(free, self._inode_marks.soft) if self._inode_marks is not None else 0

    def spend(self, size: int, files: int = 0) -> None:
        """Counts bytes as written, and files as made, since the last measurement."""
        if self._counters is None:
            self._spent += size
            return
        if size:
            self._counters.add("storage_bytes_total", size)
        if files:
            self._counters.add("storage_files_total", files)


def _inode_marks(inodes: int) -> Marks:
    soft = max(INODES_MIN[0], int(min(SOFT_INODES, SOFT_RESERVE[1] * inodes)))
    return Marks(soft, max(INODES_MIN[1], int(min(HARD_INODES, HARD_RESERVE[1] * inodes))))


def _wanted(free: int, mark: int) -> int:
    return int(mark * RESUME) - free if free < mark * TRIM else 0
