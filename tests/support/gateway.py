"""A whole fastjmix and a whole upstream, as processes: what the end-to-end tests talk to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastjmix.failpoints import VARIABLE
from fastjmix.tools import launch
from tests.support import wire

COMMAND = [*launch.COMMAND]

PATIENCE = 60.0
"""Seconds after which a thing that was to happen is taken not to happen: also beside busy
neighbours."""


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Waits for something outside this process that tells nobody when it happens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {seconds} s: {what}")


def run_command(*arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs `fastjmix` to its end; no terminal anywhere, lines never folded."""
    return run_to_end(*COMMAND, *arguments, **more)


def run_to_end(*command: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs any command so."""
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        check=False,
        **more,
    )


class Process:
    """A child with its log read by a thread: one can wait for a line."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        first: str = "",
        python: str = sys.executable,
        descriptors: Sequence[int] = (),
    ) -> None:
        """`first` is Python that runs before the program: it shortens what would last minutes.
        `python` is whose fastjmix runs. `descriptors` are open in it under their numbers."""
        self.lines: list[str] = []
        program = f"{first}\nfrom fastjmix.cli import main\nmain()"
        self._changed = threading.Condition()
        self.child = subprocess.Popen(
            [python, *(("-c", program) if first else COMMAND[1:]), *arguments],
            cwd=cwd,
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            pass_fds=tuple(descriptors),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, pattern: str, count: int = 1, seconds: float = PATIENCE) -> re.Match[str]:
        """The `count`-th line that matches. Fails when the process ends or time is up first."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = [m for line in self.lines if (m := re.search(pattern, line))]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                ended = self.child.poll() is not None and not self._reader.is_alive()
                if left <= 0 or ended:
                    raise AssertionError(f"no {pattern!r} in:\n" + "\n".join(self.lines[-60:]))
                self._changed.wait(min(left, 0.5))

    def log(self) -> str:
        return "\n".join(self.lines)

    def close(self) -> None:
        """Ends the process if it has not ended, and lets go of its pipe."""
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        self._reader.join(PATIENCE)
        assert self.child.stdout is not None
        self.child.stdout.close()

    def stop(self, number: int = signal.SIGINT, seconds: float = PATIENCE) -> int:
        """Sends a signal (unless it has ended) and returns the exit code.

        SIGINT ends a gateway within grace_secs; SIGTERM would wait for associations that a test
        leaves open, and for an upstream that answers slowly.
        """
        if self.child.poll() is None:
            self.child.send_signal(number)
        try:
            code = self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            raise AssertionError("did not stop:\n" + self.log()) from None
        self._reader.join(PATIENCE)
        return code


CONFIG = """
[proxy]
name = "under-test"
log_level = "info"
pipelines_path = "pipelines"

[network.dicom_net.tcp_config]
bind_address = "127.0.0.1"
bind_port = {dicom_port}

[network.http_net.http]
bind_address = "127.0.0.1"
bind_port = {http_port}

[storage]
backend = "filesystem"

[storage.options]
path = "./spool"
{storage}

[targets.upstream_jmix]
connection.host = "127.0.0.1"
connection.port = {upstream}
connection.protocol = "http"
timeout_secs = 30

[fastjmix]
grace_secs = 5
{fastjmix}
"""

PIPELINE = """
[pipelines.dicom_to_jmix]
networks = ["dicom_net"]
endpoints = ["dicom_receiver"]
middleware = [{middleware}]
backends = [{backends}]

[endpoints.dicom_receiver]
service = "dicom_scp"

[endpoints.dicom_receiver.options]
local_aet = "JMIX_RECEIVER"
{endpoint}

[middleware.jmix_builder]
type = "jmix_builder"

[middleware.jmix_builder.options]
{builder}

[backends.jmix_upstream]
service = "jmix_backend"
target_ref = "upstream_jmix"

[backends.jmix_upstream.options]
path_prefix = "/api"
{backend}

[pipelines.jmix_query]
networks = ["http_net"]
endpoints = ["jmix_http"]
middleware = ["passthru"]
backends = [{posts_to}]

[endpoints.jmix_http]
service = "jmix"

[endpoints.jmix_http.options]
path_prefix = "/jmix"
{http}

[middleware.passthru]
type = "passthru"
"""


TABLES = ("storage", "fastjmix", "endpoint", "builder", "backend", "http")


def write_config(directory: Path, upstream: int, **parts: str) -> Path:
    """config.toml and its pipeline; `parts` add keys: see `TABLES`.

    `dicom_port`, `http_port`: where to listen, if not at ports of the system's choosing.
    `posts_to`: the backend, in quotes, that envelopes POSTed to the gateway go to. `middleware`,
    `backends`: those of the DICOM pipeline, in quotes.
    """
    filled = {key: parts.get(key, "") for key in (*TABLES, "posts_to")}
    filled |= {key: parts.get(key, "0") for key in ("dicom_port", "http_port")}
    filled["middleware"] = parts.get("middleware", '"jmix_builder"')
    filled["backends"] = parts.get("backends", '"jmix_upstream"')
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "pipelines").mkdir(exist_ok=True)
    (directory / "config.toml").write_text(CONFIG.format(upstream=upstream, **filled))
    (directory / "pipelines" / "dicom-to-jmix.toml").write_text(PIPELINE.format(**filled))
    return directory / "config.toml"


class Gateway(Process):
    """A running fastjmix with ports of the system's choosing."""

    def __init__(
        self,
        directory: Path,
        upstream: int,
        env: Mapping[str, str] | None = None,
        first: str = "",
        python: str = sys.executable,
        descriptors: Sequence[int] = (),
        **parts: str,
    ) -> None:
        write_config(directory, upstream, **parts)
        super().__init__(
            *("run", "-c", "config.toml"),
            cwd=directory,
            env=env,
            first=first,
            python=python,
            descriptors=descriptors,
        )
        self.spool = directory / "spool"
        self._forked = False
        self.wait_for(launch.STARTED)
        self.dicom_port = int(self.wait_for(launch.listening("dicom"))[1])
        self.http_port = int(self.wait_for(launch.listening("http"))[1])

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def envelopes(self, state: str) -> list[Path]:
        return sorted((self.spool / state).glob("*.zip"))

    def wait_sealed(self, count: int = 1) -> list[Path]:
        """Until so many envelopes were sealed; where they are now."""
        self.wait_for("envelope_sealed", count)
        return self.envelopes("outbox") + self.envelopes("sent")

    def wait_sent(self, count: int = 1) -> list[Path]:
        until(lambda: len(self.envelopes("sent")) >= count, f"{count} envelopes in sent/")
        return self.envelopes("sent")

    def children(self) -> dict[str, int]:
        """Process ids by name, of the children that are alive, once each has its name."""
        supervisor = Path(f"/proc/{self.child.pid}")

        def found() -> dict[str, int]:
            pids = (supervisor / f"task/{self.child.pid}/children").read_text().split()
            return {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in pids}

        nameless = (supervisor / "comm").read_text().strip()
        if not self._forked:  # it says that it listens before it forks
            all_of_them = {"receiver-0", "packer-0", "uploader", "api", "ledger"}
            until(lambda: all_of_them <= found().keys(), "every child is there")
            self._forked = True
        until(lambda: nameless not in found(), "every child has its name")
        return found()


NOT_LISTENING = 9
"""A port at which no upstream listens: discard (RFC 863)."""


class Gateways:
    """Starts gateways, each in a directory of its own below one; `close` ends them."""

    def __init__(self, directory: Path, defaults: Mapping[str, Any]) -> None:
        """`defaults` are the arguments of a call that gives no others."""
        self._directory = directory
        self._defaults = defaults
        self._started: list[Gateway] = []

    def __call__(self, upstream: int | None = None, **parts: Any) -> Gateway:
        """Starts one. `upstream` is a port (without one, nobody listens there), `name` that of its
        directory, `at` says what happens at fail points; the others are those of Gateway."""
        given = {
            "upstream": NOT_LISTENING,
            "name": "own",
            "at": "",
            "env": {},
            **self._defaults,
            **parts,
        }
        if upstream is not None:
            given["upstream"] = upstream
        env = {VARIABLE: given.pop("at"), **given.pop("env")}
        process = Gateway(self._directory / given.pop("name"), env=env, **given)
        self._started.append(process)
        return process

    def close(self) -> None:
        """Ends those that still run, and prints what all of them logged."""
        for process in self._started:
            process.close()
            print(process.log()[-8000:])


class Store(Process):
    """A running `fastjmix store`."""

    def __init__(self, directory: Path, *options: str, port: int = 0) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory / "store"
        super().__init__(
            "store", "--port", str(port), "--dir", str(self.directory), *options, cwd=directory
        )
        self.url = self.wait_for(launch.STORE_LISTENING)[1]
        found = urlsplit(self.url).port
        assert found is not None
        self.port = found

    def held(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(self.url, headers={"Accept": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["jmixEnvelopes"]
            return found

    def wait_held(self, count: int) -> list[dict[str, Any]]:
        until(lambda: len(self.held()) >= count, f"{count} envelopes at the upstream")
        return self.held()

    def archive(self, envelope_id: str) -> bytes:
        with urllib.request.urlopen(f"{self.url}/{envelope_id}", timeout=30) as answer:
            data: bytes = answer.read()
            return data


@contextmanager
def running(process: Any) -> Iterator[Any]:
    """Stops the process whatever happens; its log is shown when the test fails."""
    try:
        yield process
    except BaseException:
        print(process.log()[-20000:])
        raise
    finally:
        process.close()


def get(url: str, **headers: str) -> tuple[int, Message, bytes]:
    """(status, headers, body), whatever the status."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.headers, problem.read()


class Peer:
    """A DICOM peer on a plain socket, for what well-behaved senders do not do."""

    def __init__(self, port: int, timeout: float = 20.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self.socket.recv(length - len(data))
            if not part:
                raise EOFError(f"closed after {len(data)} of {length} bytes")
            data += part
        return data

    def pdu(self) -> tuple[int, bytes]:
        """Type and body of the next PDU."""
        head = self.read(6)
        return head[0], self.read(int.from_bytes(head[2:], "big"))

    def closed(self) -> bool:
        """Waits for the other side to close; True when nothing came before that."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def associate(self, *contexts: bytes, **options: Any) -> tuple[int, bytes]:
        """Sends an A-ASSOCIATE-RQ (explicit little endian CT by default); the answer."""
        chosen = contexts or (
            wire.context(1, wire.CT, wire.EXPLICIT),
            wire.context(3, wire.VERIFICATION, wire.IMPLICIT),
        )
        self.send(wire.associate_rq(*chosen, **options))
        return self.pdu()

    def response(self) -> dict[int, bytes]:
        """The command set of the next message, from as many PDVs as it has."""
        data = b""
        while True:
            kind, body = self.pdu()
            assert kind == 4, (kind, body)
            at = 0
            while at < len(body):
                length = int.from_bytes(body[at : at + 4], "big")
                data += body[at + 6 : at + 4 + length]
                last = body[at + 5] & 2
                at += 4 + length
            if last:
                return wire.parse_command(data)

    def status(self) -> int:
        return int.from_bytes(self.response()[0x0900], "little")

    def store(self, data: bytes, instance: str = "1.2.3.9", number: int = 1, **options: Any) -> int:
        """C-STORE of a data set; its status."""
        sizes = options.pop("sizes", [16000] * (len(data) // 16000 + 1))
        items = wire.pdvs(number, wire.store_rq(instance, **options), True)
        self.send(wire.p_data(items + wire.pdvs(number, data, False, sizes)))
        return self.status()

    def release(self) -> None:
        self.send(wire.RELEASE_RQ)
        assert self.pdu()[0] == 6


def holds(pid: int, secret: bytes) -> bool:
    """Searched in the memory and the environment of a process, as a debugger would."""
    if secret in Path(f"/proc/{pid}/environ").read_bytes():
        return True
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            bounds, mode = line.split()[:2]
            if mode[:2] == "rw" and "memfd" not in line:
                first, last = (int(b, 16) for b in bounds.split("-"))
                memory.seek(first)
                if secret in memory.read(last - first):
                    return True
    return False


def members(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def images(archive: Path) -> dict[str, bytes]:
    """SOP Instance UID → data set bytes, of every instance in an envelope."""
    return images_in(members(archive))


def images_in(content: Mapping[str, bytes]) -> dict[str, bytes]:
    found = {}
    for name, data in content.items():
        if name.endswith(".dcm"):
            start = 144 + int.from_bytes(data[140:144], "little")
            meta = data[132:start]
            at = meta.index(b"\x02\x00\x03\x00UI") + 6
            length = int.from_bytes(meta[at : at + 2], "little")
            found[meta[at + 2 : at + 2 + length].rstrip(b"\0").decode()] = data[start:]
    return found
