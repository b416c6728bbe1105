"""Refuses what the storage has no space for."""

from __future__ import annotations

from fastjmix.errors import StorageFull
from fastjmix.spool import FreeSpace


def require_space(space: FreeSpace, size: int, inodes: int = 0) -> None:
    """Raises StorageFull unless so many bytes and inodes more stay above the hard marks."""
    if not space.fits(size, inodes):
        what = "nearly full" if space.lacking == "space" else "nearly out of inodes"
        raise StorageFull(f"the storage directory is {what}")
