"""The protocols of a service manager: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

Guaranteed: without a service manager nothing here does anything. A message never waits and never
raises: a manager that does not read loses it. Nothing that fastjmix starts inherits the variables
or the sockets. An inherited socket serves the listener that is configured with exactly its address;
it stays open in this process, so that a listener that a reload brings back finds it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, MutableMapping, Sequence
from ipaddress import ip_address
from typing import Final

from fastjmix.ipc.channels import address_of

LISTEN_FDS_START: Final = 3
"""sd_listen_fds(3): the number of the first descriptor that is handed over."""

LISTEN_FDS_MAX: Final = 1024
"""Sockets that are taken over. systemd's own bound is the limit of descriptors."""

STATUS_MAX: Final = 200
"""Characters of a status line."""


class Notifier:
    """Tells the service manager how fastjmix is, where there is one that asks for it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID out of the environment."""
        address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "") or str(os.getpid())
        self._status = ""
        self._stopping = False
        self._socket = _connected(address)
        watched = self._socket is not None and usec.isdecimal() and pid == str(os.getpid())
        self._alive_secs = int(usec) / 2e6 if watched and int(usec) else None
        self._alive_at = 0.0

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptor of its socket, which only the supervisor uses."""
        return () if self._socket is None else (self._socket.fileno(),)

    @property
    def is_stopping(self) -> bool:
        """True when a manager was told that fastjmix ends."""
        return self._stopping and self._socket is not None

    def ready(self, status: str) -> None:
        """Says that fastjmix serves: after its start, and after each reload."""
        self._status = status[:STATUS_MAX]
        self._send("READY=1", f"STATUS={self._status}")

    def reloading(self) -> None:
        """Says that a reload has begun; `ready` says that it is over."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Says that fastjmix ends. From then on the manager's time limit for a stop runs."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Says in one line what fastjmix does, where that has changed."""
        line = text[:STATUS_MAX]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def keep_alive(self) -> None:
        """Says that the supervisor's loop runs, twice in each of the watchdog's periods."""
        now = time.monotonic()
        if self._alive_secs is not None and now >= self._alive_at:
            self._alive_at = now + self._alive_secs
            self._send("WATCHDOG=1")

    @property
    def wait_secs(self) -> float | None:
        """Seconds until `keep_alive` is to be called; None: never."""
        if self._alive_secs is None:
            return None
        return max(0.0, self._alive_at - time.monotonic())

    def close(self) -> None:
        """Ends the connection to the manager; what is said later is lost."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # its queue is full, or the manager is gone
                self._socket.send("\n".join(lines).encode())


def _connected(address: str) -> socket.socket | None:
    """Returns a socket to the manager; None where there is none, or of another kind (vsock:)."""
    if not address.startswith(("/", "@")):
        return None
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    try:
        made.connect("\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        made.close()
        return None
    return made


class InheritedSockets:
    """The listening sockets that a service manager handed over, by their addresses."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """Takes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES out of the environment, and the sockets
        over if they are for this process. `unusable` are the names of what is no listening stream
        socket of an Internet address.
        """
        pid = environment.pop("LISTEN_PID", "")
        count = environment.pop("LISTEN_FDS", "")
        names = environment.pop("LISTEN_FDNAMES", "").split(":")
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        self._wanted: set[tuple[str, int]] = set()
        self.unusable: list[str] = []
        if pid != str(os.getpid()) or not count.isdecimal():
            return
        for number in range(min(int(count), LISTEN_FDS_MAX)):
            given = names[number] if number < len(names) and names[number] else "unknown"
            self._take_over(LISTEN_FDS_START + number, given)

    def _take_over(self, descriptor: int, name: str) -> None:
        try:
            os.set_inheritable(descriptor, False)
            taken = socket.socket(fileno=descriptor)
        except OSError:
            self.unusable.append(f"descriptor {descriptor} ({name})")
            return
        if not _is_listening(taken) or address_of(taken) in self._sockets:
            self.unusable.append(f"descriptor {descriptor} ({name})")
            taken.close()
            return
        taken.setblocking(False)
        self._sockets[address_of(taken)] = taken

    def take(self, host: str, port: int) -> socket.socket | None:
        """Returns a duplicate of the socket with this address; None when there is none."""
        address = _numeric(host), port
        found = self._sockets.get(address)
        if found is None:
            return None
        self._wanted.add(address)
        return found.dup()

    @property
    def addresses(self) -> frozenset[tuple[str, int]]:
        """The addresses of all of them."""
        return frozenset(self._sockets)

    @property
    def unwanted(self) -> Sequence[str]:
        """The addresses that no listener has taken, as text, and what is unusable."""
        left = [_text(one) for one in self._sockets if one not in self._wanted]
        return [*left, *self.unusable]

    def __iter__(self) -> Iterator[socket.socket]:
        return iter(self._sockets.values())


def _is_listening(one: socket.socket) -> bool:
    return (
        one.family in (socket.AF_INET, socket.AF_INET6)
        and one.type == socket.SOCK_STREAM
        and bool(one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )


def _numeric(host: str) -> str:
    """Returns a host as getsockname(2) gives it; a name that has no address as it is."""
    try:
        return str(ip_address(host))
    except ValueError:
        with contextlib.suppress(OSError):
            return socket.gethostbyname(host)  # as bind(2) finds it (sockets.py)
        return host


def _text(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
