"""Holds an instance that is larger than its lane, in a file of its own until it is whole.

Wanted: the instance takes the disk's space once, though its bytes are written twice.
Guaranteed: the file is joined to its draft (Draft.join) in steps of JOIN_BYTES. Each step frees its
part of the file where the file system can punch holes (`shrinks`).
Still wrong: on other file systems it takes its space twice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastjmix._core import punch_hole
from fastjmix.errors import StorageFailed
from fastjmix.spool.files import Bytes, write_all

JOIN_BYTES: Final = 4 << 20
"""Bytes of a step: some 2 ms of copying, a tenth of a second of the slowest disk."""


class Spill:
    """The file, in building/. Nothing in it was promised."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, 0o600)
        self.size = 0
        self.shrinks = self._can_shrink()

    def _can_shrink(self) -> bool:
        try:
            punch_hole(self.descriptor, 0, JOIN_BYTES)
        except OSError:
            return False
        return True

    @property
    def join_bytes(self) -> int:
        """The bytes of the disk that it takes in addition while it is joined."""
        return min(self.size, JOIN_BYTES) if self.shrinks else self.size

    def append(self, buffers: Sequence[Bytes]) -> None:
        """Appends bytes. Raises OSError, most often for want of space."""
        self.size = write_all(self.descriptor, buffers, self.size)

    def move(self, at: int, length: int, target: int, offset: int) -> None:
        """Moves a part of it to `offset` of another file. It can no longer be read here.

        Raises OSError.
        """
        done = 0
        while done < length:
            copied = os.copy_file_range(
                self.descriptor, target, length - done, at + done, offset + done
            )
            if not copied:
                raise StorageFailed("a spill is shorter than what was written to it")
            done += copied
        if self.shrinks:
            punch_hole(self.descriptor, at, length)

    def drop(self) -> None:
        """Closes and removes the file."""
        with contextlib.suppress(OSError):  # its bytes are no longer needed
            os.close(self.descriptor)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Remade(Spill):
    """A draft's archive in another form, being written beside it. It counts only when sealed."""

    def __init__(self, directory: Path, name: str) -> None:
        path = directory / name
        path.unlink(missing_ok=True)  # of an earlier attempt
        super().__init__(path)

    def overwrite(self, data: Bytes, offset: int) -> None:
        """Writes bytes at an offset that was left out before. Raises OSError."""
        write_all(self.descriptor, [data], offset)
