"""What the storage directory stands on: a disk, or memory that only looks like one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
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
    for point, kind, options in mounts():
        # A later mount on the same point hides the earlier.
        if is_within(path, point) and len(point) >= len(best):
            best, found = point, (kind, options)
    return found


def mounts() -> Iterator[tuple[str, str, str]]:
    """Mount point, type and super options of each mount, in their order. Raises OSError."""
    for line in MOUNTS.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        yield unescaped(before.split(" ")[4]), kind, unescaped(options)


def is_within(path: str, point: str) -> bool:
    """True when `path` is `point`, or lies below it."""
    return path == point or path.startswith(point.rstrip("/") + "/")


def unescaped(text: str) -> str:
    """Blanks and backslashes stand in the tables of mounts as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
