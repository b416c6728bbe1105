"""The listening end of the local socket: the node's.

Guaranteed: only a socket is replaced, which a node that was killed has left: the lock of the spool
says that no other node runs. Nobody can connect before the file has its mode, since listen(2) comes
last. The end removes the file if it is still this one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from fastjmix.control.place import NAME, address

BACKLOG: Final = 16
"""Connections that may wait to be accepted: a person has few windows."""

MODE: Final = 0o600


class ControlSocket:
    """A socket that listens in a storage directory. The caller holds the lock of that.

    Raises FileExistsError when a file of another kind has the name, OSError.
    """

    def __init__(self, storage: Path) -> None:
        self._path = storage / NAME
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._remove_old()
            with address(storage) as where:
                self.socket.bind(where)
                Path(where).chmod(MODE)
                self._identity = _identity(Path(where).lstat())
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
        except BaseException:
            self.socket.close()
            raise

    def in_place(self) -> bool:
        """Returns whether the path still leads to this socket."""
        try:
            return _identity(self._path.lstat()) == self._identity
        except OSError:
            return False

    def remove(self) -> None:
        """Deletes the file, if it is this socket's. The owner of `socket` closes it."""
        if self.in_place():
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _remove_old(self) -> None:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(errno.EEXIST, "a file of another kind has its name")
        self._path.unlink()


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
