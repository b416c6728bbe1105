"""The API over a spool, on ports of the system's choice; its links' other ends are the test's."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any

from fastjmix.api import server as api
from fastjmix.config import Config, HttpListener, LogSettings, Runtime, Upstream
from fastjmix.ipc.actions import make_pair
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.spool import Spool, Ticket
from tests.support.adopting import Supervisor
from tests.support.envelopes import ID, STUDY

BASE = "/jmix/api/jmix"
OTHER = "550e8400-e29b-41d4-a716-446655440001"
POST = {"Content-Type": "application/zip"}
UPSTREAM = Upstream(
    name="upstream_jmix",
    url="http://127.0.0.1:9/api/jmix",
    timeout_secs=10.0,
    max_retries=0,
    ca_file=None,
    transfer_encoding="auto",
    require_matching_id=False,
    credentials=None,
)
LISTENER = HttpListener(
    pipeline="jmix_query",
    endpoint="jmix_http",
    host="127.0.0.1",
    port=0,
    path_prefix="/jmix",
    cert_file=None,
    key_file=None,
    credentials=None,
    allow_unauthenticated=False,
    allowed_hosts=(),
    upstreams=(),
)


@dataclass
class Answer:
    status: int
    body: bytes
    headers: Message

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Gateway:
    """The API over a spool, and the other ends of its links. `answering` is where the
    uploader reads actions."""

    spool: Spool
    channels: Channels
    uploader_end: socket.socket
    answering: socket.socket
    supervisor: Supervisor
    config: Config
    sockets: list[socket.socket]
    ports: list[int] = field(default_factory=list)

    def listen(self) -> int:
        """Makes a socket for one more listener; returns its number."""
        self.sockets.append(made := socket.create_server(("127.0.0.1", 0)))
        self.ports.append(made.getsockname()[1])
        return len(self.sockets) - 1

    def configure(self, listeners: Mapping[int, HttpListener], **changes: Any) -> None:
        """Gives the api another configuration as the supervisor does, and waits until it has
        adopted it. `listeners` are by the numbers of their sockets, `changes` of Config."""
        self.config = replace(self.config, http=tuple(listeners.values()), **changes)
        self.supervisor.configure(self.config, [self.sockets[number] for number in listeners])

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        listener: int = 0,
    ) -> Answer:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.ports[listener], timeout=20)
        ) as connection:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.read(), response.headers)

    def get(self, path: str, **headers: str) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("GET", path, headers=sent)

    def post(self, body: bytes, **headers: str) -> Answer:
        return self.ask("POST", BASE, body, {**POST, **headers})

    def put(self, data: bytes, **ticket: Any) -> None:
        """An envelope into outbox/, as a packer would."""
        archive = self.spool.new_upload()
        archive.write_bytes(data)
        self.spool.admit(archive, self.ticket(size_bytes=len(data), **ticket))

    def ticket(self, **changes: Any) -> Ticket:
        usual: dict[str, Any] = {
            "id": ID,
            "pipeline": "dicom_to_jmix",
            "upstreams": ("upstream_jmix",),
            "ack": "stored",
            "studies": (STUDY,),
            "calling_ae": "MODALITY",
            "instances": 1,
            "size_bytes": 0,
            "sealed_at": 1_700_000_000.0,
            "origin": "packer-0",
        }
        return Ticket(**{**usual, **changes})

    def stop(self) -> None:
        os.eventfd_write(self.channels.stop, 1)

    def outcome(self, word: str, envelope_id: str = ID, **more: Any) -> None:
        """Waits until something is in outbox/, then answers as the uploader does."""
        os.eventfd_read(self.channels.outbox_wake)
        datagram = {"id": envelope_id, "outcome": word, "status": None, "detail": "", **more}
        self.uploader_end.send(json.dumps(datagram).encode())


@contextlib.contextmanager
def in_thread(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Runs `work` beside the test; what it raises is raised here at the end."""
    problems: list[BaseException] = []

    def main() -> None:
        try:
            work()
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=main)
    thread.start()
    try:
        yield thread
    finally:
        thread.join(20)
        assert not thread.is_alive()
    for problem in problems:
        raise problem


@contextlib.contextmanager
def running(
    root: Path, *listeners: HttpListener, grace_secs: float = 5.0, **changes: Any
) -> Iterator[Gateway]:
    """Runs api.run in a thread, with a spool of its own as a process has; stopped through
    Channels.stop. `changes` are of Config.
    """
    spool = Spool(root / "spool", durable=False)
    spool.prepare()
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    stop, outbox_wake = os.eventfd(0), os.eventfd(0)
    asking, answering = make_pair()
    answering.setblocking(True)
    metrics = MetricsPage(2).row(0)
    supervisor = Supervisor()
    channels = Channels(
        stop,
        outbox_wake,
        {"api": mine},
        metrics,
        actions=asking,
        configuration=supervisor.inbox,
    )
    config = replace(settings(root, listeners or (LISTENER,), grace_secs), **changes)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in config.http]
    copies = [one.dup() for one in sockets]  # the supervisor's
    ports = [one.getsockname()[1] for one in copies]
    gateway = Gateway(spool, channels, theirs, answering, supervisor, config, copies, ports)
    try:
        with in_thread(
            lambda: api.run(config, Spool(spool.root, durable=False), channels, sockets)
        ):
            try:
                yield gateway
            finally:
                gateway.stop()
    finally:
        spool.release()
        for descriptor in (stop, outbox_wake):
            os.close(descriptor)
        supervisor.close()
        for one in (mine, theirs, asking, answering, *sockets, *gateway.sockets):
            one.close()


def settings(root: Path, listeners: tuple[HttpListener, ...], grace_secs: float) -> Config:
    return Config(
        name="test",
        source=root / "config.toml",
        storage_dir=root / "spool",
        log=LogSettings(level="info", file=None),
        runtime=Runtime(
            receivers=1,
            packers=1,
            lane_bytes=1 << 20,
            grace_secs=grace_secs,
            drain_secs=900.0,
            retention_secs=None,
            retention_bytes=None,
            queue_alarm_secs=3600.0,
        ),
        dicom=(),
        http=listeners,
        ignored=(),
    )


def curl(*arguments: str) -> bytes:
    return subprocess.run(
        ["curl", "-sS", "--fail", *arguments], check=True, stdout=subprocess.PIPE, timeout=30
    ).stdout
