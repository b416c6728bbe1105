"""The few ways in which this room writes: all of it, or an error."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
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

OWN: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Something of this process or machine has run out, and the storage has nothing to do with it."""

SCARCE: Final = FULL | OWN
"""Something has run out for now; any other error says that the storage itself is unwell."""

MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EXDEV})
"""A directory of the storage is not where it was, or another one is."""


DRAFT_FILES: Final = (
    "envelope.zip", "draft.json", "promised", "suspect", "ticket.json", "damaged",
    "sealed.zip", "sealed.zip.new", "draft.new", "ticket.new",
)  # fmt: skip
"""Every name in the directory of a draft."""


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable (a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(directory: Path) -> None:
    """Deletes a directory, or as much of it as can be: also where no descriptor is left to open it
    with, if it has no other files than a draft."""
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        return
    with contextlib.suppress(OSError):
        for name in DRAFT_FILES:
            (directory / name).unlink(missing_ok=True)
        directory.rmdir()


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
