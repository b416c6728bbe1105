"""The directory in which `tune` works, below the configured storage path.

Guaranteed: it is locked while it is in use, and removed in the end, with the directories above it
that were made for it; what an earlier run left behind (SIGKILL) is removed too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.errors import SpoolError

PREFIX: Final = "tune-"

SPARE_BYTES: Final = 1 << 30
"""Must be free besides four times the sample."""


@contextlib.contextmanager
def workplace(storage: Path, size: int) -> Iterator[Path]:
    """Makes the directory, and removes it in the end. `size`: bytes of the sample.

    Raises SpoolError when the storage cannot be used or has too little free space.
    """
    made = [one for one in (storage, *storage.parents) if not one.exists()]
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(storage)
        free = shutil.disk_usage(storage).free
        if free < 4 * size + SPARE_BYTES:
            hint = "Free some, or send less with --sample-mb."
            raise SpoolError(f"{storage}: {free / 1e9:.1f} GB free is too little to measure", hint)
        directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=storage))
    except OSError as problem:
        message = f"{storage}: the storage directory cannot be used: {problem.strerror}"
        raise SpoolError(message, "Check [storage.options] path and its permissions.") from None
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
        with contextlib.suppress(OSError):  # another process may have put something there
            for one in made:
                one.rmdir()


def _remove_stale(storage: Path) -> None:
    for directory in storage.glob(f"{PREFIX}*"):
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)
