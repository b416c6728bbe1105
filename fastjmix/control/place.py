"""Gives the address of the local socket of a storage directory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

NAME: Final = "control.sock"
"""Name of the socket in the storage directory."""


@contextlib.contextmanager
def address(storage: Path) -> Iterator[str]:
    """Lends an address for bind(2) and connect(2). Raises OSError.

    A socket's address has 108 bytes (unix(7)), a path may have more: so the address goes by way of
    a descriptor of the directory.
    """
    directory = os.open(storage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{NAME}"
    finally:
        os.close(directory)
