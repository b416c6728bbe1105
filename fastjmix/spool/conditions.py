"""Says what an administrator should know of the storage before instances come.

Guaranteed: one statvfs(2) and one reading of the table of mounts; nothing is written. None of these
keeps a gateway from starting: envelopes that wait can be delivered all the same.
"""

from __future__ import annotations

from typing import Final

from fastjmix.config import Config
from fastjmix.config.file_system import doubtful
from fastjmix.spool.free_space import FreeSpace, Measured

GIB: Final = 1 << 30


def storage_warnings(config: Config) -> list[str]:
    """Returns the warnings about the file system under the storage directory."""
    try:
        found = (doubtful(config.storage_dir), space_warning(FreeSpace.of(config).measured()))
    except OSError:  # the start has tried the storage, and has said what is wrong with it
        return []
    return [f"{config.storage_dir}: {one}" for one in found if one is not None]


def space_warning(now: Measured) -> str | None:
    """Returns which mark the free space is below, and what follows from that; None above both."""
    if now.free < now.marks.hard:
        return f"{in_words(now)}: below hard_reserve_bytes, so instances are refused (A700)"
    if now.free < now.marks.soft:
        return f"{in_words(now)}: below soft_reserve_bytes, so associations are rejected for now"
    if now.inode_marks is not None and now.free_inodes < now.inode_marks.soft:
        return (
            f"{now.free_inodes} free inodes: below {now.inode_marks.soft}, so associations are"
            " rejected for now"
        )
    return None


def in_words(now: Measured) -> str:
    """Returns what is free, with the marks."""
    return (
        f"{_gib(now.free)} of {_gib(now.total)} free (marks: {_gib(now.marks.soft)} and"
        f" {_gib(now.marks.hard)})"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
