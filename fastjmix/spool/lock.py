"""Claims a storage directory for one running fastjmix, of a version that can read it.

Wanted: a second fastjmix, or an older one on a newer one's spool, ends with a message and touches
nothing.
Guaranteed: the lock is flock(2), so it ends with the last process that holds it, however that
ended. `.format` holds a number; another one than FORMAT ends the start before any file is touched.
Tickets and recipes carry the number, too ("format"). If the storage directory of a running fastjmix
is made anew, all its processes claim it together (`join`): they share the lock, and the lock file
names their run. On a full disk the next start makes `.format`.
Still wrong: flock(2) on some network file systems binds one machine only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final

from fastjmix.errors import SpoolError

FORMAT: Final = 1
"""The format of the spool. A change that this version would misread makes it 2."""

LOCK: Final = ".lock"
"""Name of the file that is locked."""

MARK_BYTES_MAX: Final = 64
"""Bytes read of `.format`, which holds a number and a line's end."""

LOCK_SECS: Final = 3.0
"""How long a start waits for the lock: the processes of a killed fastjmix need a moment to end."""


def claim(root: Path) -> int:
    """Takes the lock and checks the format. Returns the descriptor that holds the lock.

    Raises SpoolError (another process, another version), OSError.
    """
    # Not open for writing, which would prevent remounting the file system read-only.
    lock = _open(root / LOCK, os.O_RDONLY | os.O_CREAT)
    try:
        _wait_for(lock, root)
        _check_format(root)
    except BaseException:
        os.close(lock)
        raise
    return lock


def join(root: Path, run: str) -> int:
    """Shares the lock of a directory with the other processes of this run of fastjmix.

    `run` is the name that they have in common. Returns the descriptor that holds the lock. Raises
    SpoolError (another run, another version), OSError.
    """
    path = root / LOCK
    lock = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if _locked(lock, fcntl.LOCK_EX):  # no other process has it
            path.write_text(run, encoding="ascii")
        if not _locked(lock, fcntl.LOCK_SH) or os.pread(lock, len(run) + 1, 0) != run.encode():
            raise _taken(root)
        _check_format(root)
    except BaseException:
        os.close(lock)
        raise
    return lock


def holder(root: Path) -> int | None:
    """Returns the process that took the lock of a directory, without touching the lock; None where
    nobody holds it, or the kernel's list (proc(5), /proc/locks) does not show the process.
    """
    try:
        found = (root / LOCK).stat()
        lines = Path("/proc/locks").read_text("ascii").splitlines()
    except OSError:
        return None
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    for fields in map(str.split, lines):
        # "1: FLOCK ADVISORY WRITE 708 00:13:11156 0 EOF"; a waiting process has "->" before FLOCK
        if fields[1] == "FLOCK" and fields[5] == device and int(fields[4]) > 0:
            return int(fields[4])
    return None


def _locked(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _taken(root: Path) -> SpoolError:
    return SpoolError(
        f"{root}: another fastjmix is using this storage directory",
        "Stop it, or give this one a [storage.options] path of its own.",
    )


def _wait_for(lock: int, root: Path) -> None:
    deadline = time.monotonic() + LOCK_SECS
    while not _locked(lock, fcntl.LOCK_EX):
        if time.monotonic() >= deadline:
            raise _taken(root)
        time.sleep(LOCK_SECS / 50)


def _check_format(root: Path) -> None:
    """Reads `.format`, or makes it. Raises SpoolError for another version, OSError."""
    mark = root / ".format"
    found = _mark(mark)
    if not found:
        _make_mark(mark)
    elif found != str(FORMAT):
        raise SpoolError(
            f"{root}: written by another version of fastjmix (its format is {found[:20]!r}, this"
            f" version knows {FORMAT}); nothing was touched",
            "Start that version again and let it deliver everything, or use another directory.",
        )


def _mark(path: Path) -> str:
    """Returns the format; empty when the file is empty or missing."""
    try:
        descriptor = _open(path, os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        return os.read(descriptor, MARK_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(descriptor)


def _make_mark(path: Path) -> None:
    try:
        descriptor = _open(path, os.O_WRONLY | os.O_CREAT)
        try:
            os.write(descriptor, f"{FORMAT}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as problem:
        # On a full disk the start goes on, and delivers the envelopes that wait.
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _open(path: Path, flags: int) -> int:
    """Opens a regular file of ours in the storage directory.

    Raises SpoolError when a link, a directory, a FIFO or the like is in its place; OSError.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_ours(path) from None
        raise
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_ours(path)


def _not_ours(path: Path) -> SpoolError:
    return SpoolError(
        f"{path}: is not a file, and fastjmix keeps one of that name there",
        "Move it away, or give fastjmix another [storage.options] path.",
    )
