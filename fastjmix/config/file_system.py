"""Tells of which kind the file system under a path is: on a disk, in memory, or elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"})
"""File systems without a disk under them (proc(5), filesystems marked nodev)."""

NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "gfs2", "glusterfs", "ocfs2"}
)
"""File systems that other machines share. One that a program of its own serves (fuse.*) counts as
one of them."""

MOUNTS: Final = Path("/proc/self/mountinfo")


def memory_under(path: Path) -> str | None:
    """Returns the type of the file system that holds `path` if it is in memory; else None.

    An overlay is where its upper directory is. An upper directory that cannot be seen from here, as
    from inside a container, counts as on a disk. Raises OSError.
    """
    kind, options = _mount_of(os.path.realpath(path))
    if kind in MEMORY:
        return kind
    upper = re.search(r"(?:^|,)upperdir=((?:\\,|[^,])*)", options) if kind == "overlay" else None
    if upper is None:
        return None
    directory = Path(upper[1].replace("\\,", ","))
    if not directory.exists():
        return None
    under, _ = _mount_of(os.path.realpath(directory))
    return f"an overlay on {under}" if under in MEMORY else None


def doubtful(path: Path) -> str | None:
    """Returns why rename(2) and fsync(2) may not keep their promises there; None on other file
    systems. Raises OSError.
    """
    kind, _ = _mount_of(os.path.realpath(path))
    if kind in MEMORY:
        return f"{kind} is memory: nothing in it survives a power cut"
    if kind in NETWORK or kind.startswith("fuse"):
        return (
            f"{kind} is no local file system: it may report a full disk after the fact, and rename"
            " is not what it is on a local disk"
        )
    if kind == "overlay":
        return "an overlay is a container's own layer: it is deleted with the container"
    return None


def kind_of(path: Path) -> str:
    """Returns the type of the file system that holds a path. Raises OSError."""
    return _mount_of(os.path.realpath(path))[0]


def _mount_of(path: str) -> tuple[str, str]:
    """Returns type and super options of the mount of `path` (proc(5), /proc/pid/mountinfo)."""
    best, found = "", ("", "")
    for point, kind, options in mounts():
        # A later mount on the same point hides the earlier.
        if is_within(path, point) and len(point) >= len(best):
            best, found = point, (kind, options)
    return found


def mounts() -> Iterator[tuple[str, str, str]]:
    """Yields mount point, type and super options of each mount, in their order. Raises OSError."""
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        yield unescaped(before.split(" ")[4]), kind, unescaped(options)


def is_within(path: str, point: str) -> bool:
    """Returns True when `path` is `point`, or lies below it."""
    return path == point or path.startswith(point.rstrip("/") + "/")


def unescaped(text: str) -> str:
    """Returns a field of a table of mounts, where blanks and backslashes are octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
