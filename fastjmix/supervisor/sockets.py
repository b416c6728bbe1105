"""Opens the listening sockets, before any process is forked."""

from __future__ import annotations

import errno
import socket
from typing import Final

from fastjmix.errors import PlatformError

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a department's modalities after a power failure."""


def listen(host: str, port: int, what: str) -> socket.socket:
    """Returns a non-blocking listening socket. Raises PlatformError that names the obstacle."""
    listening = bound(host, port, what)
    try:
        listening.listen(BACKLOG)
    except OSError as problem:
        listening.close()
        raise _refused(host, port, what, problem) from problem
    listening.setblocking(False)
    return listening


def bound(host: str, port: int, what: str) -> socket.socket:
    """Returns a socket with this address, which does not listen: nobody can connect to it. Raises
    PlatformError that names the obstacle; its cause is the OSError.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as problem:
        listening.close()
        raise _refused(host, port, what, problem) from problem
    return listening


def _refused(host: str, port: int, what: str, problem: OSError) -> PlatformError:
    hint = "Another program may be using the port, or the address is not this machine's."
    if problem.errno == errno.EACCES:  # net.ipv4.ip_unprivileged_port_start is 1024, if not set
        hint = (
            "A port below 1024 needs CAP_NET_BIND_SERVICE (with systemd"
            " AmbientCapabilities=, in a container --cap-add NET_BIND_SERVICE)."
        )
    return PlatformError(f"{what} cannot listen on {host}:{port}: {problem.strerror}", hint)
