"""Free space under the spool, and the two marks at which less and nothing is taken.

Wanted: a full disk is an answer to whoever sends, never a surprise to what was promised.
Guaranteed: under the soft mark no new associations, until there is a tenth more than it again;
under the hard mark, or where it would be passed, no instances. Each open envelope's end has its
place counted before another instance may take it, so that sealing is always possible. Before the
soft mark is reached, delivered envelopes make room (`wanted`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

from fastjmix.config import Config

SOFT_RESERVE: Final = (5 << 30, 0.05)
"""Below this much free space (bytes, or this part of the file system if that is less) new
associations are rejected for now, unless the configuration says how much."""

HARD_RESERVE: Final = (1 << 30, 0.01)
"""Below this much free space instances are answered with A700, unless the configuration says how
much. What is left is for sealing."""

RESUME: Final = 1.1
"""Times the soft mark: so much must be free again before associations are accepted."""

TRIM: Final = 1.05
"""Times the soft mark: with less, delivered envelopes go until there is RESUME times as much; so
each round frees a good deal, and the marks are for what cannot be deleted."""

ROOM_SECS: Final = 0.25
"""How long an answer about free space is believed; what is written meanwhile is subtracted."""

SEAL_BYTES: Final = 64 << 10
"""The end of an envelope without its instances: documents, a ticket, a directory's blocks."""

SEAL_BYTES_EACH: Final = 3328
"""And for each instance: about 150 in the central directory, 200 in the manifest, 300 in the
metadata; and up to 2500 there where each has a series of its own, whose texts are as long as
dicom/dataset.py keeps them, in characters that JSON writes with six bytes."""


def seal_bytes(envelopes: int, instances: int) -> int:
    """Bytes that sealing so many open envelopes with so many instances may take."""
    return envelopes * SEAL_BYTES + instances * SEAL_BYTES_EACH


class Room:
    """Free space on the file system of `root`. `soft` and `hard` are bytes; None: the defaults."""

    def __init__(self, root: Path, soft: int | None = None, hard: int | None = None) -> None:
        self._root = root
        self._soft = soft
        self._hard = hard
        self._asked = 0.0
        self._free = 0
        self._size = 0
        self._waiting = False

    @classmethod
    def of(cls, config: Config) -> Room:
        """The room of a node's storage, with its marks."""
        return cls(config.storage_dir, config.soft_reserve_bytes, config.hard_reserve_bytes)

    def _look(self) -> int:
        now = time.monotonic()
        if now - self._asked > ROOM_SECS:
            found = os.statvfs(self._root)
            self._free = found.f_bavail * found.f_frsize
            self._size = found.f_blocks * found.f_frsize
            self._asked = now
        return self._free

    def _mark(self, given: int | None, default: tuple[int, float]) -> int:
        return given if given is not None else int(min(default[0], default[1] * self._size))

    def low(self) -> bool:
        """Under the soft mark: take no new associations. Raises OSError."""
        free, mark = self._look(), self._mark(self._soft, SOFT_RESERVE)
        self._waiting = free < (mark * RESUME if self._waiting else mark)
        return self._waiting

    def exhausted(self, need: int = 0) -> bool:
        """With `need` bytes more, under the hard mark: take no instances. Raises OSError."""
        free = self._look()
        return free - need < self._mark(self._hard, HARD_RESERVE)

    def wanted(self) -> int:
        """Bytes that delivered envelopes have to give back now; 0: none. Raises OSError."""
        free, mark = self._look(), self._mark(self._soft, SOFT_RESERVE)
        return int(mark * RESUME) - free if free < mark * TRIM else 0

    def spend(self, size: int) -> None:
        """So many bytes were written since."""
        self._free -= size
