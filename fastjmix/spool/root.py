"""Holds the claim on the storage directory, and checks that the path still leads to it.

Wanted: nothing is written into a directory that is not ours. An administrator who makes the storage
directory again has nothing more to do.
Guaranteed: the lock file identifies the directory that was claimed (`check`). A new directory is
claimed in its place only if no other fastjmix has, and only on the same file system: a directory on
another one is what a mount had covered, and will cover again. A start that could not make the lock
file (no inodes) claims the directory as soon as it can.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

from fastjmix.errors import StorageGone
from fastjmix.spool.linked import identity, leads_to
from fastjmix.spool.lock import LOCK, claim, join


class Root:
    """The directory and the lock on it. A forked process shares both."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._device = 0
        self._run = uuid.uuid4().hex

    @property
    def claimed(self) -> bool:
        """True from the claim to the release."""
        return self._lock is not None

    def claim(self) -> None:
        """Takes the lock. Raises SpoolError, OSError."""
        self._lock = claim(self.path)
        self._device = self.path.stat().st_dev

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self) -> None:
        """Raises StorageGone when the path leads to another directory, or to none; OSError."""
        if self._lock is not None and not leads_to(self.path / LOCK, identity(self._lock)):
            raise StorageGone("the storage directory is gone, or another one")

    def require_file_system(self) -> None:
        """Raises StorageGone when the path leads to another file system than at the claim, if there
        was one: nothing is made there. Raises OSError when it leads nowhere."""
        if self._device and self.path.stat().st_dev != self._device:
            raise StorageGone("the storage directory is on another file system now", errno.EXDEV)

    def reclaim(self) -> None:
        """Claims the directory that the path leads to now. Raises OSError, SpoolError."""
        self.require_file_system()
        device = self.path.stat().st_dev
        if self._lock is None or not leads_to(self.path / LOCK, identity(self._lock)):
            joined = join(self.path, self._run)
            self.release()
            self._lock, self._device = joined, device
