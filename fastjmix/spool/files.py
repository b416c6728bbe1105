"""Writes and reads files: all of the bytes, or an error."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from fastjmix.failpoints import reach
from fastjmix.spool.rename import rename_new

Bytes = bytes | bytearray | memoryview

IOV_MAX: Final = 1024
"""Buffers in one pwritev(2); Linux's own limit (UIO_MAXIOV)."""

PIECE_BYTES: Final = 1 << 20
"""Bytes read at a time: large enough to make the call itself cheap."""


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable, which fsync(2) of a file does not. Raises OSError."""
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Makes the bytes of a file durable that another program may have written. Raises OSError."""
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_pieces(descriptor: int, offset: int, size: int) -> Iterator[bytes]:
    """Yields `size` bytes in pieces, less those behind the end of the file. Raises OSError."""
    for at in range(offset, offset + size, PIECE_BYTES):
        yield os.pread(descriptor, min(PIECE_BYTES, offset + size - at), at)


def write_all(descriptor: int, buffers: Sequence[Bytes], offset: int) -> int:
    """Calls pwritev(2) until every byte is written; returns the offset behind the last one. Raises
    OSError."""
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


def write_new(path: Path, data: bytes, owner: str, *, durable: bool) -> None:
    """Writes a whole file under a name that no file has.

    It is written under another name and then renamed. The successor of the process `owner` deletes
    what a kill leaves of it. Raises FileExistsError, OSError.
    """
    with _written(path, data, owner, durable=durable) as temporary:
        rename_synced(temporary, path, durable=durable)


def write_again(path: Path, data: bytes, owner: str, *, durable: bool) -> None:
    """Writes a whole file in place of an earlier one, or where none is: readers see the one or the
    other. For files that fastjmix can do without. Raises OSError."""
    with _written(path, data, owner, durable=durable) as temporary:
        temporary.replace(path)
        reach("spool.renamed")
        if durable:
            sync_directory(path.parent)


@contextlib.contextmanager
def _written(path: Path, data: bytes, owner: str, *, durable: bool) -> Iterator[Path]:
    """Yields a new file beside `path`; deletes it after an error."""
    temporary = path.parent / f"{owner}-{uuid.uuid4()}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            write_all(descriptor, [data], 0)
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        yield temporary
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def copied(source: int, directory: Path, owner: str) -> Iterator[Path]:
    """Lends a synced copy of an open file, with an unfinished file's name. Raises OSError.

    Deletes it afterwards, where it has not got another name.
    """
    copy = directory / f"{owner}-{uuid.uuid4()}.new"
    descriptor = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            at = 0
            while piece := os.pread(source, PIECE_BYTES, at):
                at = write_all(descriptor, [piece], at)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def rename_synced(source: Path, target: Path, *, durable: bool) -> None:
    """Gives a file a name that no file has. Raises FileExistsError, OSError."""
    rename_new(source, target)
    reach("spool.renamed")
    if durable:
        sync_directory(target.parent)
