"""Tries out the storage directory: it is there, mounted, ours, durable, and has free space.

Guaranteed: the lock is not touched, and the one file that is written is deleted; a fastjmix that
uses the directory is not disturbed.
Still wrong: run by root, a check proves nothing about what the service's user may write; it says
whose the directories are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.config import Config, storage_path
from fastjmix.config.file_system import doubtful, kind_of
from fastjmix.errors import SpoolError
from fastjmix.spool import FreeSpace, prepare
from fastjmix.spool.conditions import in_words, space_warning
from fastjmix.spool.directories import Directories
from fastjmix.tools.check.finding import Finding, of_error

WHAT: Final = "storage"

SLOW_SECS: Final = 0.25
"""Seconds of one write, fdatasync, rename and sync of a directory above which a disk is slow: a
modality that waits for each response stores less than four instances a second there."""


def storage(config: Config) -> Iterator[Finding]:
    """Yields what was found of the storage directory; ends with the first fault that leaves nothing
    to try."""
    root, where = config.storage_dir, str(config.storage_dir)
    try:
        storage_path.require_of(config)
    except SpoolError as problem:
        yield of_error(WHAT, where, problem)
        return
    if not root.is_dir():
        yield Finding("ok", WHAT, where, "is not there yet; the first start makes it")
        return
    yield Finding("ok", WHAT, where, _mounted(root))
    try:
        yield from _usable(config)
    except OSError as problem:
        yield _failed(where, problem)


def _usable(config: Config) -> Iterator[Finding]:
    root, where = config.storage_dir, str(config.storage_dir)
    durable = any(listener.builder.durability == "fsync" for listener in config.dicom)
    spool = Directories(root, durable=durable, create=False)
    try:
        prepare.refuse_links(spool)
        prepare.check(spool)
    except SpoolError as problem:
        yield of_error(WHAT, where, problem)
        return
    if (why := doubtful(root)) is not None:
        yield Finding("warning", WHAT, where, why, "Put it on a local disk of its own.")
    yield _durable(root, where)
    now = FreeSpace.of(config).measured()
    if (low := space_warning(now)) is not None:
        yield Finding("warning", "free space", where, low, "Free some, or use a larger disk.")
    else:
        inodes = "" if now.inode_marks is None else f", {now.free_inodes} free inodes"
        yield Finding("ok", "free space", where, f"{in_words(now)}{inodes}")


def _mounted(root: Path) -> str:
    point = storage_path.mount_of(root)
    place = "/, as no file system of its own is mounted there" if point is None else point
    try:
        return f"is on {kind_of(root)}, mounted on {place}"
    except OSError:
        return f"is on {place}"


def _durable(root: Path, where: str) -> Finding:
    """Writes, syncs, renames and deletes a file. Raises no OSError: that is a fault."""
    try:
        secs = prepare.try_out(root)
    except OSError as problem:
        return _failed(where, problem)
    found = f"a file was written, synced and renamed durably in {1000 * secs:.1f} ms"
    if secs > SLOW_SECS:
        hint = "Is the disk busy or failing? Each group of instances waits for such a sync."
        return Finding("warning", WHAT, where, f"{found}, which is slow", hint)
    return Finding("ok", WHAT, where, found)


def _failed(where: str, problem: OSError) -> Finding:
    named = f" ({problem.filename})" if problem.filename else ""
    hint = f"fastjmix runs as user {os.geteuid()} here: check the owner, the mode and the mount."
    return Finding("fault", WHAT, where, f"{problem.strerror or problem}{named}", hint)
