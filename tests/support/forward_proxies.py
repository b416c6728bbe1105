"""A real forward proxy (tinyproxy) and a real front server (nginx), as processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.gateway import until

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"


def free_port() -> int:
    """A port that nobody listens at; for programs that cannot let the system choose one."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class ForwardProxy:
    """tinyproxy at `url`; `user` is "name password" where it asks for one."""

    def __init__(self, directory: Path, user: str = "") -> None:
        directory.mkdir()
        self._log = directory / "log"
        while True:  # somebody else may take the port meanwhile
            port = free_port()
            lines = [
                f"Port {port}",
                "Listen 127.0.0.1",
                "Allow 127.0.0.1",
                "Timeout 60",
                f'LogFile "{self._log}"',
                "LogLevel Connect",
                *([f"BasicAuth {user}"] if user else []),
            ]
            (directory / "conf").write_text("\n".join(lines) + "\n")
            self._child = subprocess.Popen(
                ["tinyproxy", "-d", "-c", directory / "conf"],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            if self._listens(port):
                break
        self.url = f"http://127.0.0.1:{port}"

    def _listens(self, port: int) -> bool:
        def found() -> bool:
            if self._child.poll() is not None:
                return True
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            return False

        until(found, "tinyproxy listens, or has ended")
        return self._child.poll() is None

    @property
    def requests(self) -> list[str]:
        """The request lines that it has logged: CONNECT 127.0.0.1:1234 HTTP/1.1."""
        lines = self._log.read_text().splitlines()
        return [line.partition("): ")[2] for line in lines if "Request (file descriptor" in line]

    def close(self) -> None:
        self._child.kill()
        self._child.wait()


@contextlib.contextmanager
def nginx(directory: Path, server: str) -> Iterator[int]:
    """A port at which nginx listens, with `server` in its server block after `listen`."""
    directory.mkdir()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        listening.set_inheritable(True)
        text = f"""
            daemon off; worker_processes 1; user root;
            pid {directory}/pid; error_log {directory}/error;
            events {{}}
            http {{
                access_log off; client_max_body_size 0; client_body_temp_path {directory}/body;
                server {{ listen 127.0.0.1:{port} {server} }}
            }}
        """
        (directory / "conf").write_text(text)
        child = subprocess.Popen(
            [NGINX, "-p", directory, "-e", directory / "error", "-c", directory / "conf"],
            pass_fds=[listening.fileno()],
            env={**os.environ, "NGINX": f"{listening.fileno()};"},  # the socket that it inherits
        )
        try:
            yield port
        finally:
            child.terminate()
            child.wait()
