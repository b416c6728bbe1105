"""Decides whether a missing storage directory may be made.

A missing directory may be a disk that is not mounted. A directory made in its place would fill the
disk below, and a later mount would hide it.

Wanted: a node whose disk is away says so, and accepts nothing; a first start needs no preparation.
Guaranteed: a missing directory is made only if the configuration says `create = true`, or has the
default path, or if its disk is evidently there: its parent holds the configuration file that was
just read, or is itself where a file system is mounted. An empty directory is used unless /etc/fstab
mounts a file system on it, or above it, that is not mounted now. With `create = false` it is never
made. A directory that holds envelopes is used as it is. With `require_mount = true` nothing but a
mounted file system is used, whatever the directory holds.
Still wrong: mount units of systemd that are not in /etc/fstab are unknown here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.config.file_system import is_within, mounts, unescaped
from fastjmix.config.tree import Config
from fastjmix.errors import SpoolError

FSTAB: Final = Path("/etc/fstab")

KEY: Final = "[storage.options] path"


def require_of(config: Config) -> bool:
    """Returns whether the storage directory of a configuration may be made, as `require` does."""
    return require(
        config.storage_dir,
        config.create_storage,
        config.source,
        require_mount=config.require_mount,
    )


def require(root: Path, create: bool | None, source: Path, *, require_mount: bool = False) -> bool:
    """Returns whether `root` may be made where it is missing.

    `create` and `require_mount` are the configuration's, None where that has none; `source` is its
    main file. Raises SpoolError when `root` is missing and may not be made, is no directory, or is
    where a disk should be mounted.
    """
    if require_mount and mount_of(root) is None:
        raise SpoolError(
            f"{root}: neither it nor {root.parent} is where a file system is mounted, and"
            f" require_mount = true wants one ({KEY})",
            "Mount its disk. Nothing was written below the mount point.",
        )
    may_make = create if create is not None else _disk_is_there(root, source)
    there = _is_there(root)
    if not create and not _is_directory(root / "building"):
        _refuse_unmounted(root)
    if not there and not may_make:
        ways = (*reversed(root.parents), root)
        missing = next((one for one in ways if not _is_directory(one)), root)
        raise SpoolError(
            f"{root}: the storage directory is not there: {missing} is"
            f" {'not a directory' if os.path.lexists(missing) else 'missing'} ({KEY})",
            "Is its disk mounted? If so, make the directory, or set create = true in"
            " [storage.options].",
        )
    return may_make


def mount_of(root: Path) -> str | None:
    """Returns where the file system is mounted whose top is `root`, or holds `root`: never /.

    None where neither is a mount point, or that cannot be found out.
    """
    try:
        mounted = _mounted() - {"/"}
        ways = (os.path.realpath(root), os.path.realpath(root.parent))
        return next((way for way in ways if way in mounted), None)
    except OSError:
        return None


def _disk_is_there(root: Path, source: Path) -> bool:
    """Returns True where no mount can be missing between the parent of `root` and `root`."""
    parent = root.parent
    try:
        if parent.samefile(source.resolve().parent):
            return True
        above = os.path.realpath(parent)
        return above != "/" and above in _mounted()
    except OSError:
        return False


def _mounted() -> set[str]:
    """Returns where file systems are mounted now. Raises OSError.

    Without the waiting points of automount(8): an earlier look at the path has mounted those.
    """
    return {point for point, kind, _ in mounts() if kind != "autofs"}


def _is_there(root: Path) -> bool:
    """Returns False when it is missing. Raises SpoolError when it is no directory."""
    try:
        mode = root.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if root.is_symlink():
            raise SpoolError(
                f"{root}: is a symbolic link that leads to nothing ({KEY})",
                "Is its disk mounted? Set the path to the directory itself.",
            ) from None
        return False
    except OSError:
        return True  # the start reports what is wrong with it
    if not stat.S_ISDIR(mode):
        raise SpoolError(f"{root}: is not a directory ({KEY})", "Name a directory.")
    return True


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _refuse_unmounted(root: Path) -> None:
    """Raises SpoolError where a disk should be mounted: the disk below is smaller, and a later
    mount would hide the envelopes."""
    for point in _unmounted(os.path.realpath(root)):
        raise SpoolError(
            f"{root}: nothing is mounted on {point}, and {FSTAB} says that something shall be"
            f" ({KEY})",
            "Mount it; or set create = true there, for storage on the disk below.",
        )


def _unmounted(path: str) -> Iterator[str]:
    """Yields mount points of /etc/fstab (fstab(5)) above `path` where nothing is mounted."""
    try:
        lines = FSTAB.read_text(errors="surrogateescape").splitlines()
        mounted = _mounted()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) < 4 or fields[0].startswith("#") or "noauto" in fields[3].split(","):
            continue
        point = os.path.realpath(unescaped(fields[1]))
        named = fields[1].startswith("/") and point != "/"  # "none": swap
        if named and is_within(path, point) and point not in mounted:
            yield point
