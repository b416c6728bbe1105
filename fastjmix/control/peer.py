"""Tells who is at the other end of the local socket (unix(7), SO_PEERCRED)."""

from __future__ import annotations

import os
import pwd
import socket
from struct import Struct
from typing import Final, NamedTuple, Protocol

CREDENTIALS: Final = Struct("3i")
"""struct ucred: pid, uid, gid."""


class Connected(Protocol):
    """A socket, or what an event loop gives for one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """Returns an option, as socket.socket does."""


class Peer(NamedTuple):
    """A process at the other end, as it was when it connected."""

    pid: int
    uid: int

    @property
    def allowed(self) -> bool:
        """True for the user of this process, and for root."""
        return self.uid in (0, os.geteuid())

    def named(self) -> str:
        """Returns "uid 1000 name". May wait for a directory service: it belongs in a thread."""
        try:
            return f"uid {self.uid} {pwd.getpwuid(self.uid).pw_name}"
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connected: Connected) -> Peer:
    """Returns who connected. Raises OSError."""
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    pid, uid, _ = CREDENTIALS.unpack(found)
    return Peer(pid, uid)
