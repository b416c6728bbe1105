"""The HTTP servers under hostile clients: S13, S14, S19 to S21, S23, S24, and F80.

The API's listeners and the embedded store share httpd/, so most of this is tested with the store;
what differs is tested with both.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.api import posting
from fastjmix.config import ConfigError, Credentials, Secret
from fastjmix.httpd import connection_limit, limits
from fastjmix.httpd.responses import JSON, ZIP
from fastjmix.spool import FreeSpace, Retention
from tests.support import smuggling
from tests.support.apis import BASE, LISTENER, UPSTREAM, running
from tests.support.envelopes import ID, STUDY, envelope, envelope_members, zipped
from tests.support.gateway import until, write_config
from tests.support.nightly import by_form
from tests.support.proxy import PIECE_BYTES
from tests.support.stores import Client, with_store

# -- S20: one request, one reading -----------------------------------------------------------------

STORE_IN_PYTHON = """
import sys, pathlib
from aiohttp import http_parser
from fastjmix import log; from fastjmix.tools import store; from fastjmix.httpd import limits
assert http_parser.HttpRequestParser is http_parser.HttpRequestParserPy
limits.KEEPALIVE_SECS = limits.BODY_IDLE_SECS = limits.LINGER_SECS = 0.2
log.setup("error", None, "store")
store.run("127.0.0.1", 0, pathlib.Path(sys.argv[1]), ready=lambda url: print(url, flush=True))
"""


def raw(port: int, data: bytes) -> bytes:
    """Returns the reply to these bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
            while piece := connection.recv(PIECE_BYTES):
                received += piece
        return bytes(received)


def statuses(received: bytes) -> list[int]:
    """Returns the statuses of all responses but the interim ones."""
    found = [int(status) for status in re.findall(rb"HTTP/\d\.\d (\d{3}) ", received)]
    return [status for status in found if status >= 200]


def never_two(port: int, base: str) -> None:
    """Sends the whole table: each request gets a refusal or one well-formed response."""
    assert len(smuggling.TEMPLATES) >= 40
    for name, data in smuggling.requests(base).items():
        received = raw(port, data)
        found = statuses(received)
        assert len(found) == 1, (name, received[:300])
        assert 400 <= found[0] < 500, (name, received[:300])
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"Content-Length: %d\r\n" % len(body) in head + b"\r\n", name
        assert b"X-Content-Type-Options: nosniff" in head, name
        assert json.loads(body)["error"], (name, body)


@pytest.mark.fault("S20")
def test_the_store_never_answers_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE_SECS", 0.2)

    async def test(client: Client) -> None:
        await asyncio.to_thread(never_two, client.port, "/api/jmix")
        assert (await client.post(envelope(ID)))[0] == 201  # and it lives on

    with_store(tmp_path, test)


@pytest.mark.fault("S20")
def test_the_api_never_answers_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On uvloop, as the process runs; with an upstream, so that POST is read."""
    monkeypatch.setattr(limits, "KEEPALIVE_SECS", 0.2)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        never_two(gateway.ports[0], BASE)
        assert gateway.get("/healthz").json == {"status": "live"}


@pytest.mark.fault("S20")
def test_the_parser_in_python_never_answers_twice(tmp_path: Path) -> None:
    """Without aiohttp's compiled parser the result is the same, but for requests that it waits for
    or refuses with another 4xx."""
    arguments = [sys.executable, "-c", STORE_IN_PYTHON, str(tmp_path / "store")]
    with subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
    ) as child:
        try:
            assert child.stdout is not None
            port = int(re.findall(r":(\d+)/", child.stdout.readline())[0])
            never_two(port, "/api/jmix")
        finally:
            child.terminate()


# -- S13: bodies that are more than they seem ------------------------------------------------------

POST = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"


@pytest.mark.fault("S13")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-gzip", "gzip, identity"])
def test_no_body_is_inflated(tmp_path: Path, coding: str) -> None:
    async def test(client: Client) -> None:
        status, refusal, _ = await client.post(envelope(), **{"Content-Encoding": coding})
        assert status == 415
        assert "Content-Encoding" in refusal["error"]

    with_store(tmp_path, test)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        assert gateway.post(envelope(), **{"Content-Encoding": coding}).status == 415


@pytest.mark.fault("S13")
def test_a_length_over_the_limit_is_refused_before_a_byte_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four gigabytes to a store that takes less, and more than the API takes at all."""
    monkeypatch.setattr(limits, "LINGER_SECS", 0.05)

    def ask(port: int, base: str, length: int) -> bytes:
        head = POST.format(base) + f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
        return raw(port, head.encode())

    async def test(client: Client) -> None:
        for length in (4 << 30, 10**18):
            answer = await asyncio.to_thread(ask, client.port, "/api/jmix", length)
            assert statuses(answer) == [413]
            assert b"1000000 bytes" in answer

    with_store(tmp_path, test, max_body_bytes=10**6)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        for length in (posting.MAX_BODY_BYTES + 1, 10**18):  # no disk has space for the second
            assert statuses(ask(gateway.ports[0], BASE, length)) == [413]
        assert not list(gateway.spool.building.iterdir())


@pytest.mark.fault("S13")
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_the_limit_of_a_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: int) -> None:
    data = envelope(ID)
    monkeypatch.setattr(posting, "MAX_BODY_BYTES", len(data) - over)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        head = POST.format(BASE) + "Connection: close\r\n"
        ways = [
            f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data,
            f"{head}Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n".encode()
            + data
            + b"\r\n0\r\n\r\n",
        ]
        for sent in ways:
            with ThreadPoolExecutor(1) as beside:
                asking = beside.submit(raw, gateway.ports[0], sent)
                if over <= 0:
                    gateway.outcome("failed", status=500)
                    gateway.spool.withdraw(ID)
                assert statuses(asking.result(20)) == [502 if over <= 0 else 413]
            assert not list(gateway.spool.building.iterdir())


@pytest.mark.fault("S13")
def test_a_body_stops_where_space_for_sealing_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hard mark is checked while the body comes, not only before it."""
    monkeypatch.setattr(limits, "LINGER_SECS", 0.5)
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        asked = 0

        def exhausted(_: object, need: int = 0) -> bool:
            nonlocal asked
            asked += 1
            return asked > 3

        monkeypatch.setattr(FreeSpace, "exhausted", exhausted)
        answer = gateway.post(envelope(ID, image=bytes(8 << 20)))
        assert (answer.status, "nearly full" in answer.json["error"]) == (507, True)
        assert not list(gateway.spool.building.iterdir())
        assert not gateway.spool.outbox_listing.ids()


# -- S14: who has access ---------------------------------------------------------------------------


@pytest.mark.fault("S14")
@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_an_open_listener_beyond_this_machine_does_not_start(tmp_path: Path, address: str) -> None:
    path = write_config(tmp_path, 9)
    text = path.read_text()
    mark = '[network.http_net.http]\nbind_address = "127.0.0.1"'
    assert mark in text
    path.write_text(text.replace(mark, mark.replace("127.0.0.1", address)))
    command = [sys.executable, "-m", "fastjmix", "run", "-c", "config.toml"]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2
    assert "authentication" in ended.stderr
    assert "listening" not in ended.stderr


@pytest.mark.fault("S14")
def test_the_api_reads_and_the_store_reads(tmp_path: Path) -> None:
    """Only POST to the collection changes anything; all other methods are refused."""
    methods = ("PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND", "MKCOL", "MOVE")
    with running(tmp_path) as gateway:
        gateway.put(envelope(ID))
        for method in methods:
            for path in (BASE, f"{BASE}/{ID}", f"{BASE}/{ID}/manifest", "/healthz", "/metrics"):
                assert gateway.ask(method, path).status in (400, 404, 405), (method, path)
        assert gateway.get(f"{BASE}/{ID}").body == envelope(ID)


# -- S19: what peers wrote is data -----------------------------------------------------------------


@pytest.mark.fault("S19")
def test_what_peers_wrote_comes_back_as_json_only(tmp_path: Path) -> None:
    """A script as a patient's name, a path, a header and a query."""
    script = "<script>alert(1)</script>"
    content = envelope_members(ID)
    metadata = json.loads(content["payload/metadata.json"])
    metadata["patient"] = {"name": script}
    content["payload/metadata.json"] = json.dumps(metadata).encode()
    manifest = json.loads(content["manifest.json"])
    content["manifest.json"] = json.dumps({**manifest, "note": script}).encode()
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as gateway:
        gateway.put(zipped(content))
        html = {"Accept": "text/html, */*;q=0.1"}
        asked = [
            gateway.ask("GET", f"{BASE}/{ID}/manifest", headers=html),
            gateway.ask("GET", f"{BASE}?studyInstanceUid={STUDY}", headers={"Accept": JSON}),
            gateway.ask("GET", f"{BASE}/%3Cscript%3E", headers=html),
            gateway.ask("GET", f"{BASE}?studyInstanceUid=%3Cscript%3E", headers=html),
            gateway.ask("POST", BASE, b"x", {"Content-Type": script, **html}),
            gateway.ask("POST", BASE, zipped({script: b""}), {"Content-Type": ZIP, **html}),
            gateway.ask("GET", "/%3Cscript%3E", headers=html),
        ]
        for answer in asked:
            assert answer.headers["Content-Type"].startswith("application/json")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert asked[0].json["note"] == script
        spoilt = raw(gateway.ports[0], f"GET /{script} HTTP/1.1 {script}\r\n\r\n".encode())
        assert statuses(spoilt) == [400]
        assert b"script" not in spoilt
        assert b"Content-Type: application/json" in spoilt


# -- S21, S23: memory and limits -------------------------------------------------------------------


def resident() -> int:
    """Returns the bytes that this process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.fault("S21")
def test_many_paths_that_are_not_there_leave_nothing(tmp_path: Path) -> None:
    """Route errors are not remembered: memory is the same after the first and the last quarter."""
    rounds, count = 4, by_form(2_000, 250_000)

    async def test(client: Client) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        sizes = []
        for turn in range(rounds):
            for number in range(0, count, 20):
                paths = [f"/{turn}/{number + n}/{'x' * 200}" for n in range(20)]
                for path in paths:
                    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                for _ in paths:
                    head = await reader.readuntil(b"\r\n\r\n")
                    assert head.startswith(b"HTTP/1.1 404 ")
                    length = re.search(rb"Content-Length: (\d+)", head)
                    assert length
                    await reader.readexactly(int(length[1]))
            sizes.append(resident())
        assert sizes[-1] - sizes[0] < 2 << 20
        writer.close()

    with_store(tmp_path, test)


@pytest.mark.fault("S21")
def test_a_body_in_chunks_of_one_byte_holds_nobody_up(tmp_path: Path) -> None:
    """Other clients are served meanwhile, and soon."""
    data = envelope(ID, image=bytes(by_form(100_000, 2_000_000)))
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"

    async def test(client: Client) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        head = POST.format("/api/jmix") + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        before = resident()
        writer.write(head.encode())
        answer = asyncio.create_task(reader.read())
        asked = 0
        for start in range(0, len(body), PIECE_BYTES):
            writer.write(body[start : start + PIECE_BYTES])
            await writer.drain()
            async with asyncio.timeout(2):
                assert (await client.ask("GET", f"/{ID}"))[0] in (404, 200)
            asked += 1
        assert statuses(await answer) == [201]
        assert asked > 3
        assert resident() - before < 16 << 20
        writer.close()

    with_store(tmp_path, test)
    assert (tmp_path / "store" / f"{ID}.zip").read_bytes() == data


@pytest.mark.fault("S21")
def test_pipelined_requests_wait_their_turn(tmp_path: Path) -> None:
    """A client that sends requests and reads nothing is not read any further."""

    async def test(client: Client) -> None:
        await client.post(io.BytesIO(envelope(ID, image=bytes(1 << 20))))
        request = f"GET /api/jmix/{ID} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 100
        before = resident()
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.setblocking(False)
            sent = 0
            still = 0
            while still < 20:
                try:
                    sent += connection.send(request)
                    still = 0
                except BlockingIOError:
                    still += 1
                    await asyncio.sleep(0.02)
                assert sent < 64 << 20
            assert resident() - before < 16 << 20
            assert (await client.ask("GET", f"/{ID}/manifest"))[0] == 200

    with_store(tmp_path, test)


HEADER = b"GET /api/jmix/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"


@pytest.mark.fault("S23")
@pytest.mark.parametrize("step", [None, 1], ids=["at once", "byte by byte"])
@pytest.mark.parametrize(
    ("request_bytes", "fits"),
    [
        (HEADER + b"A: " + b"v" * (limits.MAX_LINE_BYTES - 1) + b"\r\n\r\n", True),
        (HEADER + b"A: " + b"v" * limits.MAX_LINE_BYTES + b"\r\n\r\n", True),
        (HEADER + b"A: " + b"v" * (limits.MAX_LINE_BYTES + 1) + b"\r\n\r\n", False),
        (HEADER + b"A: v\r\n" * (limits.MAX_HEADERS - 3) + b"\r\n", True),
        (HEADER + b"A: v\r\n" * (limits.MAX_HEADERS - 2) + b"\r\n", True),
        (HEADER + b"A: v\r\n" * (limits.MAX_HEADERS - 1) + b"\r\n", False),
        (HEADER.replace(b"/x", b"/" + b"x" * (limits.MAX_LINE_BYTES - 11)) + b"\r\n", True),
        (HEADER.replace(b"/x", b"/" + b"x" * (limits.MAX_LINE_BYTES - 10)) + b"\r\n", True),
        (HEADER.replace(b"/x", b"/" + b"x" * (limits.MAX_LINE_BYTES - 9)) + b"\r\n", False),
    ],
    ids=[f"{what} {where}" for what in ("value", "headers", "target") for where in "-0+"],
)
def test_the_limits_of_a_head(
    tmp_path: Path, request_bytes: bytes, fits: bool, step: int | None
) -> None:
    """The same with one write and with one for each byte: no limit begins anew with a read."""

    def ask(port: int) -> list[int]:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            received = b""
            with contextlib.suppress(ConnectionError):
                for at in range(0, len(request_bytes), step or len(request_bytes)):
                    connection.sendall(request_bytes[at : at + (step or len(request_bytes))])
                while piece := connection.recv(PIECE_BYTES):
                    received += piece
            return statuses(received)

    async def test(client: Client) -> None:
        found = await asyncio.to_thread(ask, client.port)
        # Bytes that come behind the refusal may cost the client the refusal, and nothing else.
        refused: list[list[int]] = [[400], []]
        # aiohttp counts the end of a line with a value that it got in several reads.
        edge = step is not None and b"v" * limits.MAX_LINE_BYTES in request_bytes
        assert found in ([[404]] if fits else refused) or (edge and found in refused)

    with_store(tmp_path, test)


@pytest.mark.fault("S23")
def test_a_head_that_drips_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole head: no byte restarts it. Also after a first request."""
    monkeypatch.setattr(limits, "KEEPALIVE_SECS", 0.4)

    def drip(port: int, first: bytes) -> float:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            if first:
                connection.sendall(first)
                assert connection.recv(PIECE_BYTES).startswith(b"HTTP/1.1 404 ")
            started = time.monotonic()
            connection.settimeout(0.05)
            while time.monotonic() - started < 10:
                try:
                    connection.sendall(b"G")
                    if not connection.recv(1000):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
            return time.monotonic() - started

    async def test(client: Client) -> None:
        first = b"GET /api/jmix/x HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for said in (b"", first):
            assert await asyncio.to_thread(drip, client.port, said) < 5

    with_store(tmp_path, test)


@pytest.mark.fault("S21")
def test_an_answer_that_nobody_takes_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON is held in memory until it is sent: a client that takes none of it is cut off."""
    monkeypatch.setattr(limits, "WRITE_STALL_SECS", 0.2)
    monkeypatch.setattr(limits, "ANSWER_RATE_MIN", 1 << 30)
    content = envelope_members(ID)
    manifest = json.loads(content["manifest.json"])
    content["manifest.json"] = json.dumps({**manifest, "note": "x" * (12 << 20)}).encode()

    async def test(client: Client) -> None:
        assert (await client.post(io.BytesIO(zipped(content)), Connection="close"))[0] == 201
        await client.until_connections(0)
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            connection.connect(("127.0.0.1", client.port))
            connection.sendall(
                f"GET /api/jmix/{ID}/manifest HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
            )
            await client.until_connections(1)
            await client.until_connections(0)

    with_store(tmp_path, test)


# -- connections -----------------------------------------------------------------------------------


@contextlib.contextmanager
def held(port: int, count: int, address: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Opens so many connections of one address, which send nothing."""
    made: list[socket.socket] = []
    try:
        for _ in range(count):
            made.append(socket.create_connection(("127.0.0.1", port), 10, (address, 0)))
        yield made
    finally:
        for each in made:
            each.close()


def alive(connection: socket.socket) -> bool:
    """Returns whether the connection is served."""
    connection.settimeout(10)
    try:
        connection.sendall(b"GET /api/jmix/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return connection.recv(1000).startswith(b"HTTP/1.1 404 ")
    except ConnectionError:
        return False


def served(connections: list[socket.socket]) -> int:
    return sum(alive(one) for one in connections)


@pytest.mark.fault("S21")
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_connections_of_one_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    """One address cannot take all connections: others are served beside it."""
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_EACH", 5)

    async def test(client: Client) -> None:
        def ask() -> None:
            with held(client.port, 5 + over) as mine:
                assert served(mine) == min(5, 5 + over)
                with held(client.port, 5, "127.0.0.2") as others:
                    assert served(others) == 5
            with contextlib.ExitStack() as again:
                for _ in range(200):
                    (one,) = again.enter_context(held(client.port, 1))
                    if alive(one):
                        return
                    one.close()
                raise AssertionError("what was closed is not counted out")

        await asyncio.to_thread(ask)

    with_store(tmp_path, test)


@pytest.mark.fault("S21")
def test_connections_in_all_are_bounded_without_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand that send nothing cannot take the descriptors: they are closed when accepted."""
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(limits, "SPARE_CONNECTIONS", 2)
    monkeypatch.setattr(connection_limit, "TOLD_SECS", 1000.0)

    async def test(client: Client) -> None:
        def ask() -> None:
            with held(client.port, by_form(200, 800)) as mine:
                for one in mine[:10]:
                    one.setblocking(False)
                    with pytest.raises(BlockingIOError):
                        one.recv(1)
                for one in mine[10:]:
                    one.settimeout(10)
                    with contextlib.suppress(ConnectionResetError):
                        assert one.recv(1) == b""

        await asyncio.to_thread(ask)
        assert client.runner.server is not None
        await client.until_connections(0)
        assert (await client.ask("GET"))[0] == 400

    with_store(tmp_path, test)


# -- S24: names that are not what they seem --------------------------------------------------------


@pytest.mark.fault("S24")
@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "127.1",
        "127.0.1",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "127.0.0.1:80",
        "user@example.org",
        "exa mple.org",
        "-example.org",
        "example..org",
        "１２７.0.0.1",
        "[::1",
        "a" * 254,
        "",
    ],
)
def test_an_upstream_has_a_name_or_an_address_in_its_usual_form(tmp_path: Path, host: str) -> None:
    path = write_config(tmp_path, 9)
    text = path.read_text()
    mark = 'connection.host = "127.0.0.1"'
    assert mark in text
    path.write_text(text.replace(mark, f"connection.host = {json.dumps(host)}"))
    with pytest.raises(ConfigError, match="host"):
        config.load(path)
    path.write_text(text.replace(mark, f'url = "http://{host}:80"'))
    with pytest.raises(ConfigError):
        config.load(path)


# -- F80: a download while the envelope moves ------------------------------------------------------


def whole(status: int, headers: Message, body: bytes) -> bool:
    """Checks a response: 404, or 200 with a whole valid archive. Returns True for 200."""
    if status == 404:
        return False
    assert status == 200
    assert len(body) == int(headers["Content-Length"])
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.testzip() is None
    return True


@pytest.mark.fault("F80")
def test_a_download_while_envelopes_are_sealed_moved_and_deleted(tmp_path: Path) -> None:
    """Clients read each envelope, by id and by study, through all its states."""
    with running(tmp_path) as gateway:
        ids = [str(uuid.uuid4()) for _ in range(by_form(12, 200))]
        image = os.urandom(1 << 20)
        over = threading.Event()
        found = [0, 0]

        def ask(paths: Callable[[str], str], turn: int) -> None:
            while not over.is_set():
                for envelope_id in ids:
                    answer = gateway.get(paths(envelope_id), Accept="application/zip")
                    found[turn] += whole(answer.status, answer.headers, answer.body)

        with ThreadPoolExecutor(2) as readers, contextlib.ExitStack() as at_end:
            at_end.callback(over.set)
            asking = [
                readers.submit(ask, lambda i: f"{BASE}/{i}", 0),
                readers.submit(ask, lambda i: f"{BASE}?studyInstanceUid=1.{int(i[:8], 16)}", 1),
            ]
            for number, envelope_id in enumerate(ids):
                study = f"1.{int(envelope_id[:8], 16)}"
                data = envelope(envelope_id, study, image)
                gateway.put(data, id=envelope_id, studies=(study,))
                if number % 3 == 0:
                    gateway.spool.reject(envelope_id, {"status": 400})
                elif number % 3 == 1:
                    gateway.spool.deliver(envelope_id, {"status": 201})
                else:
                    gateway.spool.deliver(envelope_id, {"status": 201})
                    Retention(gateway.spool, -1.0).run()
            last = str(uuid.uuid4())  # one that stays
            study = f"1.{int(last[:8], 16)}"
            gateway.put(envelope(last, study, image), id=last, studies=(study,))
            ids.append(last)
            until(lambda: all(found) or any(one.done() for one in asking), "whole archives")
            over.set()
            for one in asking:
                one.result(20)
        assert all(found)


@pytest.mark.fault("S14")
def test_a_token_is_required_before_any_other_answer(tmp_path: Path) -> None:
    """An id that is here and one that is not look the same without credentials."""
    credentials = Credentials(method="bearer", token=Secret("s3cret"))
    with running(tmp_path, replace(LISTENER, credentials=credentials)) as gateway:
        gateway.put(envelope(ID))
        here, not_here = (gateway.get(f"{BASE}/{i}") for i in (ID, str(uuid.uuid4())))
        assert (here.status, here.body) == (not_here.status, not_here.body)
        assert here.status == 401
