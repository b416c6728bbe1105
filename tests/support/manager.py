"""A service manager of the test's own: it holds the listening sockets, and is notified.

It does what sd_notify(3) and sd_listen_fds(3) say of a manager, and keeps its sockets open while
the gateway that it started ends and the next one begins.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from tests.support.gateway import PATIENCE, Gateway

BACKLOG: Final = 128

HANDS_OVER: Final = """
import fcntl, os
at = [fcntl.fcntl(int(one), fcntl.F_DUPFD, 100) for one in os.environ["GIVEN"].split()]
for number, one in enumerate(at, 3):
    os.dup2(one, number, inheritable=True)
    os.close(one)
os.environ["LISTEN_PID"] = str(os.getpid())
"""
"""Runs in the gateway's process before the program: the descriptors begin at 3, as from systemd."""


class Manager:
    """Holds a DICOM and an HTTP socket, and starts gateways with them, one after the other.

    `others` are handed over, too. `usec`: the watchdog's period.
    """

    def __init__(self, *others: socket.socket, usec: int = 0, address: str | None = None) -> None:
        self.dicom = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.http = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self._others = others
        self._usec = usec
        self._address = address or f"@fastjmix-test-{os.getpid()}-{self.dicom_port}"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(self._address.replace("@", "\0", 1))
        self._changed = threading.Condition()
        self.messages: list[str] = []
        """Every line that came, in order."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def dicom_port(self) -> int:
        return int(self.dicom.getsockname()[1])

    def start(self, directory: Path, upstream: int, *, first: str = "", **parts: Any) -> Gateway:
        """Starts a gateway that listens at these sockets."""
        given = [one.fileno() for one in (self.dicom, self.http, *self._others)]
        names = ["dicom", "http", *("other" for _ in self._others)]
        env = {
            "GIVEN": " ".join(map(str, given)),
            "LISTEN_FDS": str(len(given)),
            "LISTEN_FDNAMES": ":".join(names),
            "NOTIFY_SOCKET": self._address,
            **({"WATCHDOG_USEC": str(self._usec)} if self._usec else {}),
            **parts.pop("env", {}),
        }
        return Gateway(
            directory,
            upstream,
            env=env,
            first=HANDS_OVER + first,
            descriptors=given,
            dicom_port=str(self.dicom_port),
            http_port=str(self.http.getsockname()[1]),
            **parts,
        )

    def _read(self) -> None:
        while datagram := self._notified.recv(65536):
            with self._changed:
                self.messages += datagram.decode().splitlines()
                self._changed.notify_all()

    def wait_for(self, line: str, count: int = 1) -> None:
        """Until a line that begins so has come so often."""

        def came() -> bool:
            return sum(one.startswith(line) for one in self.messages) >= count

        with self._changed:
            assert self._changed.wait_for(came, PATIENCE), (line, self.messages)

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: object, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._notified.getsockname())
        self._reader.join(PATIENCE)
        sockets: Sequence[socket.socket] = (self._notified, self.dicom, self.http, *self._others)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.close()
