"""A client that resets its connection, at whatever moment, leaves one line in the log at most."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import struct
import subprocess
from pathlib import Path

import pytest

from tests.support.envelopes import ID, envelope
from tests.support.gateway import Process, Store, running, until, write_config

DATA = envelope(ID, image=os.urandom(4 << 20))


class Client:
    """A connection that ends with a reset."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket = context.wrap_socket(plain) if context else plain
        # what is behind the encryption, for bytes that are none of TLS
        self.below = socket.socket(fileno=os.dup(self.socket.fileno()))

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def take(self, size: int) -> None:
        while size > 0 and (piece := self.socket.recv(min(size, 65536))):
            size -= len(piece)

    def reset(self) -> None:
        self.below.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        self.below.close()


def post(base: str, data: bytes = DATA) -> bytes:
    head = f"POST {base} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data


def chunked(base: str) -> bytes:
    head = f"POST {base} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
    return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + b"5\r\nhello\r\nfffff\r\nand"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def resets(port: int, base: str, context: ssl.SSLContext | None = None) -> int:
    """Resets at many moments of a request and its answer; how many requests that were."""
    dice = random.Random(port)
    one, count = f"{base}/{ID}", 0
    sent = post(base)
    asked = [sent[:cut] for cut in (0, 30, 150, 200, 5000, 1 << 20, len(sent) - 1, len(sent))]
    asked += [chunked(base), get(one), get(f"{one}/manifest") * 20, get(f"{one}?") + b"\0" * 99]
    for request in asked * 3:
        client = Client(port, context)
        client.send(request)
        count += 20 if request.count(b"GET") == 20 else 1
        if dice.random() < 0.5:
            client.below.setblocking(False)
            with contextlib.suppress(OSError):
                client.below.recv(1, socket.MSG_PEEK)
        client.reset()
    for size in (1, 100, 70_000, 2 << 20, 4 << 20):
        client = Client(port, context)
        client.send(get(one))
        client.take(size)
        client.reset()
        count += 1
    for strange in (
        os.urandom(300),
        b"\x17\x03\x03\x00\x40" + os.urandom(64),
        b"GET / HTTP/1.1\r\n",
    ):
        for before in (sent[:5000], get(one)):
            client = Client(port, context)
            client.send(before)
            with contextlib.suppress(OSError):
                client.below.sendall(strange)
            with contextlib.suppress(OSError):
                client.below.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError, TimeoutError):
                client.take(8 << 20)
            client.reset()
            count += 1
    return count


def nothing_but_lines(process: Process, requests: int) -> None:
    """Checks that there is one line a request at most, none of them an error, no traceback, and
    nothing that is no line.
    """
    lines = [one for one in process.lines if "configuration_warning" not in one]
    about = [one for one in lines if re.search(r"http_(request|connection_lost|query)", one)]
    assert len(about) <= requests
    assert any("http_connection_lost" in one for one in about)
    assert [one for one in lines if re.search("Traceback|Error|Exception| error | warn", one)] == []
    stamped = re.compile(r"\d{4}-\d\d-\d\dT\S+ +\w+ +\w+|http")
    assert [one for one in lines if not stamped.match(one)] == []


@pytest.mark.fault("F99")
def test_resets_at_the_store_leave_a_line(tmp_path: Path) -> None:
    with running(Store(tmp_path)) as own:
        first = Client(own.port)
        first.send(post("/api/jmix"))
        first.take(10)
        first.reset()
        count = resets(own.port, "/api/jmix")
        assert own.archive(ID) == DATA  # it lives on
        until(lambda: not list((own.directory / "incoming").iterdir()), "nothing is left behind")
        assert own.stop() == 0
        nothing_but_lines(own, count + 2)


@pytest.fixture
def context(tmp_path: Path) -> ssl.SSLContext:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "60"]
    command += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    return found


@pytest.mark.fault("F99")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_resets_at_the_api_leave_a_line(tmp_path: Path, context: ssl.SSLContext, tls: bool) -> None:
    store = Store(tmp_path)
    config = write_config(tmp_path / "gateway", store.port, posts_to='"jmix_upstream"')
    if tls:
        keys = f'cert_path = "{tmp_path}/certificate.pem"\nkey_path = "{tmp_path}/key.pem"'
        table = "[network.http_net.http]\n"
        config.write_text(config.read_text().replace(table, f"{table}{keys}\n"))
    with running(store), running(Process("run", "-c", "config.toml", cwd=config.parent)) as own:
        port = int(own.wait_for(r"listening what=http .*:(\d+)$")[1])
        own.wait_for("http_listening")
        used = context if tls else None
        first = Client(port, used)
        first.send(post("/jmix/api/jmix"))
        first.take(10)
        first.reset()
        count = resets(port, "/jmix/api/jmix", used)
        building = config.parent / "spool" / "building"
        until(lambda: not list(building.glob("*.upload")), "nothing is left behind")
        assert own.stop() == 0
        nothing_but_lines(own, count + 1)
