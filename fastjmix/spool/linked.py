"""Tells whether a path still leads to a file that is open.

Wanted: no instance is acknowledged into a directory that was deleted, moved away, replaced, or
covered by another mount.
Guaranteed: `leads_to` compares device and inode of the file that the path names with those of the
open file. An open file keeps its inode, so that equal means the same file. rescue.py saves the
instances that were acknowledged before.
Still wrong: some microseconds pass between the comparison and the acknowledgement.
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
    """Returns whether this path names that file. Raises OSError when it cannot be looked up."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == file


@dataclass(frozen=True, slots=True)
class Held:
    """Open files of a draft to which no path leads: its archive, and its journal or -1."""

    archive: int
    promises: int

    def close(self) -> None:
        """Closes the files, whose contents are no longer needed."""
        for descriptor in (self.archive, self.promises):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
