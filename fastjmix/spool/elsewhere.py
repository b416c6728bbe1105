"""Writes a file into a directory that is not ours: another program's, or on a mounted share.

Guaranteed: the file has its name when every byte of it is on stable storage, and no other file is
replaced. Until then it has a name that begins with a dot and ends in .part, which follows from the
target that writes it: two targets that lead to one directory never write to the same file. One that
a killed process left is replaced by the target's next attempt. No directory is ever made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastjmix.config import storage_path
from fastjmix.failpoints import reach
from fastjmix.spool.files import Bytes, rename_synced, sync_directory, sync_file, write_all

UNFINISHED: Final = ".part"


def require_mount(directory: Path) -> None:
    """Raises OSError (ENODEV) where no file system is mounted at a directory or its parent."""
    if storage_path.mount_of(directory) is None:
        raise OSError(errno.ENODEV, "nothing is mounted there", str(directory))


class NewFile:
    """A file on its way to the name `target`, from the writer of this name. Its methods may wait
    for the disk, and raise OSError.

    Each may be called in another thread, also while one of them waits: then it waits for that.
    """

    def __init__(self, target: Path, mode: int, writer: str) -> None:
        self._lock = threading.Lock()
        self._descriptor = -1
        self._target = target
        by = f"{zlib.crc32(writer.encode()):08x}"  # its own characters may not suit a file name
        self._unfinished = target.with_name(f".{target.stem}.{by}{UNFINISHED}")
        self._unfinished.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._unfinished, flags, mode)
        self._end = 0
        with contextlib.suppress(PermissionError):  # a share has its own mode
            os.fchmod(self._descriptor, mode)

    def write(self, pieces: Sequence[Bytes]) -> None:
        """Appends these bytes."""
        with self._lock:
            self._end = write_all(self._descriptor, pieces, self._end)

    def place(self) -> None:
        """Makes the file durable, and gives it its name. Raises FileExistsError."""
        with self._lock:
            os.fsync(self._descriptor)
            self._close()  # a share may report only now what it could not write
            reach("elsewhere.written")
            rename_synced(self._unfinished, self._target, durable=True)

    def discard(self) -> None:
        """Deletes what has not got its name. Does nothing after `place`."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._close()
            with contextlib.suppress(OSError):
                self._unfinished.unlink(missing_ok=True)

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def try_out(directory: Path, mode: int) -> float:
    """Takes all the steps with a small file, and deletes it. Returns the seconds that they took.
    Raises OSError."""
    started = time.perf_counter()
    target = directory / f"fastjmix-check-{uuid.uuid4()}.tmp"
    file = NewFile(target, mode, "check")
    try:
        file.write([b"This is a test by `fastjmix check`, and no envelope.\n"])
        file.place()
    finally:
        file.discard()
        target.unlink(missing_ok=True)
    return time.perf_counter() - started


def make_durable(path: Path) -> None:
    """Makes a file and its name durable: whoever wrote it may not have. Raises OSError."""
    sync_file(path)
    sync_directory(path.parent)
