"""Holds an instance that is larger than its lane: a file of its own until it is whole.

Wanted: its bytes take the disk's space once, though they are written twice.
Guaranteed: it is joined (Draft.join) in steps of JOIN_BYTES, each of which gives its part of the
spill back to the disk where the file system can do that (`shrinks`).
Still wrong: where the file system punches no holes, its space is needed twice.
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
    """The file, beside the envelopes. Nothing in it was promised."""

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
        """Returns how much more of the disk it will take while it is joined."""
        return min(self.size, JOIN_BYTES) if self.shrinks else self.size

    def append(self, buffers: Sequence[Bytes]) -> None:
        """Appends bytes. Raises OSError (ENOSPC and its kin)."""
        self.size = write_all(self.descriptor, buffers, self.size)

    def move(self, at: int, length: int, target: int, offset: int) -> None:
        """Moves a part of it to `offset` of another file. It cannot be read here any more.

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
        with contextlib.suppress(OSError):  # nothing of it is wanted any more
            os.close(self.descriptor)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Remade(Spill):
    """A draft's archive in another form, being written beside it. It is worth nothing before its
    seal.
    """

    def __init__(self, directory: Path, name: str) -> None:
        path = directory / name
        path.unlink(missing_ok=True)  # an earlier attempt's
        super().__init__(path)

    def overwrite(self, data: Bytes, offset: int) -> None:
        """Bytes whose place was kept. Raises OSError."""
        write_all(self.descriptor, [data], offset)
