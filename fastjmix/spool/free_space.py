"""Measures free space under the spool, in bytes and in inodes, against two marks of each.

Wanted: a full disk is an answer to whoever sends, never a surprise to what was promised.
Guaranteed: under the soft mark no new associations, until there is a tenth more than it again;
under the hard mark, or where it would be passed, no instances. The space that sealing, joining,
encrypting and delivering will still take, in all processes together (`counters`), is counted before
another instance may take it; so sealing is always possible. An instance of an open envelope takes
no inode, and is not refused for one. Before the soft mark is reached, delivered envelopes make room
(`wanted`). A file system that reports no number of inodes has no marks for them.
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
much. What is left is for sealing."""

SOFT_INODES: Final = 10_000
"""The soft mark of inodes, less those that are reserved: 2,500 envelopes more, or the same part of
the file system if that is less."""

HARD_INODES: Final = 1_000
"""The hard mark of inodes: below this many, or the same part, nothing that needs an inode is
begun."""

INODES_MIN: Final = (16, 8)
"""The least of both marks, for small file systems: eight are a draft that recovery copies (four),
what it keeps of damage (three), and a probe."""

DRAFT_INODES: Final = 4
"""A directory, the archive, its recipe, its journal."""

OPEN_INODES: Final = 2
"""Inodes that an open envelope will take: its ticket, and its other form where it is encrypted.
Both are made before anything of the draft is deleted."""

WAITING_INODES: Final = 1
"""Inodes that an envelope in outbox/ will take: its receipt, before its ticket is deleted."""

POST_INODES: Final = 3
"""Inodes of an envelope that is posted: its archive, its ticket, its receipt."""

SENT_INODES: Final = 2
"""Inodes that a delivered envelope gives back: its archive and its receipt."""

RESUME: Final = 1.1
"""Times the soft mark: so much must be free again before associations are accepted."""

TRIM: Final = 1.05
"""Times the soft mark: with less, delivered envelopes go until there is RESUME times as much; so
each round frees a good deal, and the marks are for what cannot be deleted."""

ROOM_SECS: Final = 0.25
"""How long an answer about free space is believed; what is written meanwhile is subtracted."""

FAR_BYTES: Final = 4 << 30
"""With so much more than the hard mark at the last look, nobody reaches it before the next. The
writes of other processes since then are not asked for."""

SEAL_BYTES: Final = 64 << 10
"""The end of an envelope without its instances: documents, a ticket, a directory's blocks."""

SEAL_BYTES_EACH: Final = 3328
"""And for each instance: about 150 in the central directory, 200 in the manifest, 300 in the
metadata; and up to 2500 there where each has a series of its own, whose texts are as long as
dicom/dataset.py keeps them, in characters that JSON writes with six bytes."""


def seal_bytes(envelopes: int, instances: int) -> int:
    """Bytes that sealing so many open envelopes with so many instances may take."""
    return envelopes * SEAL_BYTES + instances * SEAL_BYTES_EACH


class Counters(Protocol):
    """Counts of what all processes have written, and what they will (stats.Stats)."""

    def add(self, name: str, amount: int = 1) -> None: ...
    def total(self, name: str) -> int: ...


class Marks(NamedTuple):
    """The soft and the hard mark of bytes or inodes."""

    soft: int
    hard: int


class Room:
    """Free space on the file system of `root`. `soft` and `hard` are bytes; None: the defaults.

    `counters` are shared with the other processes that write there; None: nobody else does.
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
        self._asked = 0.0
        self._free = 0
        self._inodes = 0
        self._marks = Marks(0, 0)
        self._inode_marks: Marks | None = None
        self._written = 0
        self._made = 0
        self._reserved = 0
        self._spent = 0
        self._waiting = [False, False]
        self.lacking = "space"
        """The resource of which there was too little at the last question: space, or inodes."""

    @classmethod
    def of(cls, config: Config, counters: Counters | None = None) -> Room:
        """The room of a node's storage, with its marks."""
        soft, hard = config.soft_reserve_bytes, config.hard_reserve_bytes
        return cls(config.storage_dir, soft, hard, counters)

    # -- what is free ----------------------------------------------------------------------------

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._asked <= ROOM_SECS:
            return
        names = ("storage_bytes_total", "storage_files_total", "bytes_reserved")
        self._written, self._made, self._reserved = self._count(*names)
        self._spent = 0
        found = os.statvfs(self._root)
        self._free = found.f_bavail * found.f_frsize
        self._inodes = found.f_favail
        size = found.f_blocks * found.f_frsize
        soft, hard = self._given
        self._marks = Marks(
            int(min(SOFT_RESERVE[0], SOFT_RESERVE[1] * size)) if soft is None else soft,
            int(min(HARD_RESERVE[0], HARD_RESERVE[1] * size)) if hard is None else hard,
        )
        self._inode_marks = _inode_marks(found.f_files) if found.f_files else None
        self._asked = now

    def _count(self, *names: str) -> list[int]:
        counters = self._counters
        return [0] * len(names) if counters is None else [counters.total(name) for name in names]

    def _bytes(self) -> int:
        """Returns the free bytes now: bytes written since the last look are not free."""
        self._look()
        (written,) = self._count("storage_bytes_total")
        return self._free - self._spent - (written - self._written)

    def _files(self) -> int:
        """Returns the free inodes now, without those that sealing and delivering will take."""
        self._look()
        names = ("storage_files_total", "inodes_reserved", "outbox_envelopes")
        made, reserved, waiting = self._count(*names)
        return self._inodes - (made - self._made) - reserved - waiting * WAITING_INODES

    # -- the marks -------------------------------------------------------------------------------

    def low(self) -> bool:
        """Tells whether free space is under a soft mark: take no new associations. Raises
        OSError."""
        free, inodes, marks = self._bytes(), self._files(), self._inode_marks
        few = marks is not None and self._is_low(1, inodes, marks.soft)
        little = self._is_low(0, free, self._marks.soft)
        self.lacking = "space" if little else "inodes"
        return little or few

    def _is_low(self, which: int, free: int, mark: int) -> bool:
        low = free < (mark * RESUME if self._waiting[which] else mark)
        self._waiting[which] = low
        return low

    def exhausted(self, need: int = 0) -> bool:
        """With `need` bytes more, under the hard mark: take no instances. Raises OSError."""
        return not self._above(need)

    def _above(self, need: int) -> bool:
        self._look()
        spare = self._free - self._reserved - self._spent - need - self._marks.hard
        if spare > FAR_BYTES:
            return True
        self.lacking = "space"
        return self._bytes() - need - sum(self._count("bytes_reserved")) >= self._marks.hard

    def fits(self, size: int, inodes: int = 0) -> bool:
        """Tells whether so much more can be had above both hard marks. Raises OSError."""
        if not self._above(size):
            return False
        if not inodes or self._inode_marks is None:
            return True
        self.lacking = "inodes"
        return self._files() - inodes >= self._inode_marks.hard

    def take(self, size: int) -> bool:
        """Spends so many bytes; may they be written? Raises OSError."""
        self.spend(size)
        return not self.exhausted()

    def wanted(self) -> int:
        """Bytes that delivered envelopes have to give back now; 0: none. Raises OSError."""
        return _wanted(self._bytes(), self._marks.soft)

    def wanted_inodes(self) -> int:
        """Does the same for inodes."""
        free = self._files()
        return _wanted(free, self._inode_marks.soft) if self._inode_marks is not None else 0

    def spend(self, size: int, files: int = 0) -> None:
        """Notes that so many bytes were written since, so many files made."""
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
