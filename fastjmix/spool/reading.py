"""Opens files in the state directories, which may also hold files of other kinds.

Guaranteed: no symbolic link is followed, only regular files are read, and opening never waits:
open(2) of a FIFO without O_NONBLOCK would wait for a writer, for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

FLAGS: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY

PIECE_BYTES: Final = 1 << 20
"""Bytes of one read."""


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Returns a descriptor of a regular file. Raises OSError, also for a file of another kind."""
    descriptor = os.open(path, flags | FLAGS)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "is not a regular file", str(path))


def open_archive(path: Path) -> BinaryIO:
    """Returns an unbuffered file object of a regular file. Raises OSError."""
    return os.fdopen(open_regular(path), "rb", buffering=0)


def read_small(path: Path, most: int) -> bytes:
    """Returns at most `most` bytes of a regular file. Raises OSError."""
    with open_archive(path) as file:
        parts = []
        # A read allocates what it asks for, and a limit of the address space counts that.
        while most > 0 and (part := file.read(min(most, PIECE_BYTES))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)


def is_file(path: Path) -> bool:
    """Returns True for a regular file; False for a link to one. Raises OSError."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def is_directory(path: Path) -> bool:
    """Returns True for a directory; False for a link to one. Raises OSError."""
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def same_bytes(one: Path, other: Path) -> bool:
    """Returns whether two files hold the same bytes. Raises OSError."""
    with open_archive(one) as first, open_archive(other) as second:
        if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
            return False
        at = 0
        while piece := os.pread(first.fileno(), PIECE_BYTES, at):
            if os.pread(second.fileno(), len(piece), at) != piece:
                return False
            at += len(piece)
        return True
