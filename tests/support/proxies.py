"""HAProxy and stunnel in front of a listener: real proxies that send the PROXY protocol."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HAPROXY = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen here
    bind fd@{descriptor}
    server gateway 127.0.0.1:{port} {options}
"""
STUNNEL = """
foreground = yes
pid =
syslog = no
[here]
accept = 127.0.0.1:1
cert = {pair}
connect = 127.0.0.1:{port}
protocol = proxy
"""

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""sd_listen_fds(3): the sockets begin at descriptor 3, for the process that is named."""


def program(name: str, package: str) -> str:
    """Returns the path of a proxy's program."""
    found = shutil.which(name)
    assert found, f"the tests need {name}: apt-get install {package}"
    return found


@contextmanager
def haproxy(directory: Path, port: int, options: str = "send-proxy-v2") -> Iterator[int]:
    """Runs HAProxy in front of a port. Yields the port at which it listens; `options` are those of
    its line `server`."""
    with _listening() as listening:
        file = directory / "haproxy.cfg"
        file.write_text(HAPROXY.format(descriptor=listening.fileno(), port=port, options=options))
        command = [program("haproxy", "haproxy"), "-db", "-f", str(file)]
        with _running(command, directory, listening):
            yield listening.getsockname()[1]


@contextmanager
def stunnel(directory: Path, port: int, pair: Path) -> Iterator[int]:
    """Runs stunnel, which takes TLS off, in front of a port. `pair` is its key and certificate.
    Yields the port at which it listens: it takes the socket as systemd would give it."""
    with _listening() as listening:
        file = directory / "stunnel.conf"
        file.write_text(STUNNEL.format(pair=pair, port=port))
        command = [sys.executable, "-c", AS_SYSTEMD, str(listening.fileno())]
        with _running([*command, program("stunnel", "stunnel4"), str(file)], directory, listening):
            yield listening.getsockname()[1]


@contextmanager
def _listening() -> Iterator[socket.socket]:
    """Yields a socket that listens at a port of the system's choice."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@contextmanager
def _running(command: Sequence[str], directory: Path, listening: socket.socket) -> Iterator[None]:
    with (directory / "proxy.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            pass_fds=[listening.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()
            print((directory / "proxy.log").read_text(errors="replace")[-4000:])
