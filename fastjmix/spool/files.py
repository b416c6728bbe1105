"""The few ways in which this room writes: all of it, or an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

Bytes = bytes | bytearray | memoryview

IOV_MAX: Final = 1024
"""Buffers in one pwritev(2); Linux's own limit (UIO_MAXIOV)."""

PIECE_BYTES: Final = 1 << 20
"""Bytes read at a time: large enough to make the call itself cheap."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""There is no room for more. What pwrite(2) says so of has harmed nothing that was there."""

SCARCE: Final = FULL | {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Something has run out for now; any other error says that the storage itself is unwell."""


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable (a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_pieces(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    """pread(2) of `size` bytes in pieces; those behind the end of the file are left out. Raises
    OSError."""
    for at in range(offset, offset + size, PIECE_BYTES):
        yield os.pread(descriptor, min(PIECE_BYTES, offset + size - at), at)


def write_all(descriptor: int, buffers: Sequence[Bytes], offset: int) -> int:
    """pwritev(2) until every byte is written; returns the offset behind the last one."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    index = 0
    while index < len(views):
        batch = views[index : index + IOV_MAX]
        written = os.pwritev(descriptor, batch, offset)
        offset += written
        for view in batch:
            if written < len(view):
                views[index] = view[written:]
                break
            written -= len(view)
            index += 1
    return offset
