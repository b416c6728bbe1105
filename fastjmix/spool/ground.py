"""What the storage directory stands on: a disk, or memory that only looks like one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MEMORY: Final = frozenset({"tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs"})
"""File systems without a disk under them (proc(5), filesystems marked nodev)."""

MOUNTS: Final = Path("/proc/self/mountinfo")


def standing_on(path: Path) -> str | None:
    """The name of the file system in memory that holds `path`; None when it is not one.

    An overlay is where its upper directory is; one that cannot be seen from here (a container's,
    on its host) is taken for a disk. Raises OSError.
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


def _mount_of(path: str) -> tuple[str, str]:
    """Type and super options of the mount that holds `path` (proc(5), /proc/pid/mountinfo)."""
    best, found = "", ("", "")
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of two on one point the later hides the earlier
            kind, _, options = after.split(" ", 2)
            best, found = point, (kind, _unescaped(options))
    return found


def _unescaped(text: str) -> str:
    """Blanks and backslashes stand there as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
