"""Opens the listening sockets: those of the start before any process is forked, later ones when a
new
configuration has them."""

from __future__ import annotations

import contextlib
import errno
import socket
from dataclasses import dataclass
from typing import Any, Final

from fastjmix.config import Config, DicomListener
from fastjmix.errors import PlatformError
from fastjmix.ipc.channels import address_of
from fastjmix.log import Logger
from fastjmix.supervisor.systemd import InheritedSockets

BACKLOG: Final = 1024
"""Connections that may wait to be accepted: a department's modalities after a power failure."""


Place = tuple[str, int] | tuple[str, int, str, str]
"""Where a listener listens. Where the system chooses the port, its pipeline and endpoint say which
listener it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Sockets:
    """The listening sockets of a configuration, in its order."""

    dicom: tuple[socket.socket, ...]
    http: tuple[socket.socket, ...]

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """All of them."""
        return (*self.dicom, *self.http)


def listen_at(
    config: Config, inherited: InheritedSockets, before: tuple[Config, Sockets] | None = None
) -> Sockets:
    """Returns the sockets of a configuration. A socket of the configuration before that has the
    same address is taken from there, and one that was inherited before another is opened. Raises
    PlatformError that names the first obstacle; no socket was opened then."""
    had = {} if before is None else dict(zip(_places(before[0]), before[1].all, strict=True))
    opened: list[socket.socket] = []
    found: list[socket.socket] = []
    try:
        for listener, place in zip(config.listeners, _places(config), strict=True):
            if place not in had:
                kind = "DICOM" if isinstance(listener, DicomListener) else "HTTP"
                what = f"{kind} endpoint {listener.endpoint}"
                host, port = listener.host, listener.port
                had[place] = inherited.take(host, port) or listen(host, port, what)
                opened.append(had[place])
            found.append(had[place])
    except PlatformError:
        for one in opened:
            one.close()
        raise
    count = len(config.dicom)
    return Sockets(tuple(found[:count]), tuple(found[count:]))


def _places(config: Config) -> list[Place]:
    return [
        (one.host, one.port) if one.port else (one.host, 0, one.pipeline, one.endpoint)
        for one in config.listeners
    ]


def log_listening(
    log: Logger, config: Config, sockets: Sockets, but: Sockets | None = None
) -> None:
    """Logs where a node listens; `but`: the sockets that it had."""
    had = () if but is None else but.all
    for dicom, listening in zip(config.dicom, sockets.dicom, strict=True):
        if listening not in had:
            log.info("listening", what="dicom", ae_title=dicom.ae_title, address=_text(listening))
    for http, listening in zip(config.http, sockets.http, strict=True):
        if listening not in had:
            log.info("listening", what="http", prefix=http.path_prefix, address=_text(listening))


def listening_json(config: Config, sockets: Sockets) -> list[dict[str, Any]]:
    """Returns the same for a program."""
    dicom = [
        {"what": "dicom", "ae_title": one.ae_title, **_address(listening)}
        for one, listening in zip(config.dicom, sockets.dicom, strict=True)
    ]
    http = [
        {"what": "http", "prefix": one.path_prefix, **_address(listening)}
        for one, listening in zip(config.http, sockets.http, strict=True)
    ]
    return dicom + http


def _address(listening: socket.socket) -> dict[str, Any]:
    host, port = address_of(listening)
    return {"host": host, "port": port}


def _text(listening: socket.socket) -> str:
    host, port = address_of(listening)
    return f"{host}:{port}"


def end(listening: socket.socket, inherited: InheritedSockets) -> str:
    """Ends a listening socket for all processes that have it, unless it was inherited: then it is
    closed only. Returns where it listened."""
    address = _text(listening)
    if address_of(listening) not in inherited.addresses:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    return address


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
