"""Tells whether a file is still where its path leads.

Wanted: nothing is acknowledged into a directory that was deleted, moved away, replaced, or covered
by another mount.
Guaranteed: `leads_to` compares device and inode of what the path names with those of the file that
is open; a file that is open keeps its inode, so that equal means the same file. What was
acknowledged before is saved by rescue.py.
Still wrong: between the look and the answer there are some microseconds.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

Identity = tuple[int, int]
"""Device and inode."""


def identity(descriptor: int) -> Identity:
    """Returns the identity of an open file. Raises OSError."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def leads_to(path: str | Path, file: Identity) -> bool:
    """Tells whether this path names that file. Raises OSError when that cannot be told."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == file


@dataclass(frozen=True, slots=True)
class Held:
    """Descriptors of a draft to which no path led: of its archive, and of its journal or -1."""

    archive: int
    promises: int

    def close(self) -> None:
        """Closes the descriptors: their contents are wanted no more."""
        for descriptor in (self.archive, self.promises):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
