"""Makes the storage directory ready: at a start, and after it was gone or full.

Wanted: no instance is accepted by storage that cannot keep it, and envelopes that wait are
delivered even if a resource has run out.
Guaranteed: a link, another user's directory, memory, several file systems, a read-only one and
another fastjmix end the start (SpoolError). Errors that may pass (no free space, inodes or
descriptors; PASSING) do not end it. The spool is then `unproved`: the packers accept nothing until
all directories are made and a small file was written, synced, renamed and read back
(packer/storage_health.py). The other processes deliver and delete as usual.
"""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from fastjmix.config.file_system import memory_under
from fastjmix.errors import LimitReached, SpoolError, StorageFull, storage_error
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import sync_directory
from fastjmix.spool.reading import read_small
from fastjmix.spool.rename import rename_new

PROBE: Final = b"fastjmix was here"

CHECK: Final = "check"
"""The owner of the files of `try_out`: the next start deletes what a kill has left of them."""

PASSING: Final = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})
"""Failures of the storage that may pass without a person. A start does not end for them, nor for
want of space or of descriptors: envelopes that wait can be delivered, which frees space."""


def make_ready(spool: Directories, claim: Callable[[], None]) -> OSError | None:
    """Makes the directories, takes the lock, and tries the storage.

    Returns the first error that may pass; None when there is none. Raises SpoolError.
    """
    refuse_links(spool)
    lacks: list[OSError] = []
    steps: list[Callable[[], object]] = [
        partial(_make_root, spool),
        *(partial(_make, path) for path in _directories(spool)),
        claim,
        partial(check, spool),
    ]
    try:
        for step in steps:
            _attempt(step, lacks)
        if not lacks:
            _attempt(partial(probe, spool), lacks)
    except OSError as problem:
        raise SpoolError(
            f"{spool.root}: the storage directory cannot be used: {problem.strerror}"
            f" ({problem.filename})",
            "Check [storage.options] path, its owner and its permissions.",
        ) from problem
    return lacks[0] if lacks else None


def _attempt(step: Callable[[], object], lacks: list[OSError]) -> None:
    """Takes a step, and notes an error that may pass. Later steps may then miss directories."""
    try:
        step()
    except FileNotFoundError as problem:
        if not lacks:
            raise
        lacks.append(problem)
    except OSError as problem:
        if not _passes(problem):
            raise
        lacks.append(problem)


def _passes(problem: OSError) -> bool:
    out = isinstance(storage_error(problem), StorageFull | LimitReached)
    return out or problem.errno in PASSING


def _make_root(spool: Directories) -> None:
    """Makes the storage directory if that is allowed: a missing one may be a disk that is not
    mounted. Raises OSError."""
    if spool.create:
        _make(spool.root)
    else:
        spool.root.stat()


def _make(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _directories(spool: Directories) -> tuple[Path, ...]:
    return spool.building, spool.outbox, spool.sent, spool.rejected, spool.provenance


def make_again(spool: Directories, reclaim: Callable[[], None]) -> None:
    """Completes the directories where they, or all of the storage, were made anew, or could not be
    made at the start. Raises OSError, SpoolError."""
    refuse_links(spool)
    if spool.unproved:
        _make_root(spool)
    reclaim()
    for directory in _directories(spool):
        directory.mkdir(mode=0o700, exist_ok=True)
    check(spool)


def refuse_links(spool: Directories) -> None:
    """Raises SpoolError for symbolic links: the owner of a link can change where it leads. Links
    above the storage directory are the administrator's."""
    if spool.root.is_symlink():
        raise SpoolError(
            f"{spool.root}: is a symbolic link",
            f"Set [storage.options] path to what it leads to: {spool.root.resolve()}",
        )
    for path in _directories(spool):
        if path.is_symlink():
            raise SpoolError(
                f"{path}: is a symbolic link, and envelopes move through it by rename",
                "Put the directory itself there, or mount the storage's disk one level up.",
            )


def check(spool: Directories) -> None:
    """Checks the file system under those directories that are there. Raises SpoolError, OSError."""
    found = {path: path.stat() for path in _directories(spool) if os.path.lexists(path)}
    if len({one.st_dev for one in found.values()}) > 1:
        raise SpoolError(
            f"{spool.root}: building, outbox, sent, rejected and provenance are on several file"
            " systems",
            "An envelope moves between them by rename: put them on one.",
        )
    for path, one in found.items():
        if one.st_uid != os.geteuid():
            raise SpoolError(
                f"{path}: belongs to user {one.st_uid}, and fastjmix runs as {os.geteuid()}",
                "Run fastjmix as the user whose directory it is, or change its owner.",
            )
    kind = memory_under(spool.root)
    if spool.durable and kind is not None:
        raise SpoolError(
            f"{spool.root}: is on {kind}, which is memory: nothing in it survives a power cut",
            'Put [storage.options] path on a disk, or set durability = "page-cache" for all.',
        )


def probe(spool: Directories) -> None:
    """Writes, syncs, renames and reads back a small file, as a promise needs it. Raises OSError."""
    name = f"{spool.owner}-{uuid.uuid4()}.new"
    _prove(spool.building / name, spool.outbox / name, durable=spool.durable)


def try_out(root: Path) -> float:
    """Takes the same steps in a storage directory that another fastjmix may be using, durably.
    Returns the seconds that they took. Raises OSError.

    Where building/ and outbox/ are not there yet, it takes them in `root` itself.
    """
    spool = Directories(root, create=False)
    here, there = spool.building, spool.outbox
    if not (here.is_dir() and there.is_dir()):
        here = there = root
    names = (f"{CHECK}-{uuid.uuid4()}.new" for _ in range(2))
    started = time.perf_counter()
    _prove(here / next(names), there / next(names), durable=True)
    return time.perf_counter() - started


def _prove(here: Path, there: Path, *, durable: bool) -> None:
    """Writes `here`, renames it to `there`, reads it back, and deletes it. Raises OSError."""
    try:
        with here.open("xb") as file:
            file.write(PROBE)
            file.flush()
            if durable:
                os.fdatasync(file.fileno())
        rename_new(here, there)
        if durable:
            sync_directory(there.parent)
        if read_small(there, len(PROBE) + 1) != PROBE:
            raise OSError(errno.EIO, "what was written reads differently", str(there))
    finally:
        for path in (here, there):
            path.unlink(missing_ok=True)
