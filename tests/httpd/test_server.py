"""httpd/ through the embedded store: negotiation, ranges, conditions, malformed requests."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import pytest

from fastjmix.httpd import limits, receiving
from fastjmix.httpd.credentials import is_loopback
from tests.support.envelopes import ID, STUDY, envelope
from tests.support.stores import Client, left_behind, with_store


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "application/zip"),
        ("", "application/zip"),
        ("*/*", "application/zip"),
        ("application/*", "application/zip"),
        ("application/zip", "application/zip"),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.4, application/zip;q=0.5", "application/zip"),
        ("application/json; charset=utf-8; q=0.9, */*;q=0.1", "application/json"),
        ("application/zip;q=0, */*", "application/json"),
        ("APPLICATION/JSON", "application/json"),
        ("text/html", None),
        ("application/zip;q=0, application/json;q=0", None),
        ("application/json;q=x", None),
        (";;;,,/,a/b/c", None),
    ],
)
def test_negotiation(tmp_path: Path, accept: str | None, expected: str | None) -> None:
    async def test(client: Client) -> None:
        await client.post(envelope(ID))
        headers = {} if accept is None else {"Accept": accept}
        skip = ["Accept"] if accept is None else []
        query = f"?studyInstanceUid={STUDY}"
        status, _, found = await client.ask("GET", query, headers=headers, skip_auto_headers=skip)
        assert status == (406 if expected is None else 200)
        assert expected is None or found["Content-Type"] == expected

    with_store(tmp_path, test)


@pytest.mark.parametrize(
    ("header", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=5-999999999", 206, slice(5, None)),
        ("bytes=-999999999", 206, slice(0, None)),
        ("Bytes = 0 - 0", 206, slice(0, 1)),
        ("bytes=5-2", 200, slice(None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=" + "9" * 5000 + "-", 200, slice(None)),
        ("bytes=999999999-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_ranges(tmp_path: Path, header: str, status: int, part: slice | None) -> None:
    data = envelope(ID)

    async def test(client: Client) -> None:
        await client.post(data)
        found, body, headers = await client.ask("GET", f"/{ID}", headers={"Range": header})
        assert found == status
        if part is None:
            assert headers["Content-Range"] == f"bytes */{len(data)}"
        else:
            assert body == data[part]
            assert headers["Content-Length"] == str(len(body))
        if status == 206:
            assert part is not None
            first, stop, _ = part.indices(len(data))
            assert headers["Content-Range"] == f"bytes {first}-{stop - 1}/{len(data)}"
        assert (await client.ask("HEAD", f"/{ID}", headers={"Range": header}))[0] == 200

    with_store(tmp_path, test)


def test_conditions(tmp_path: Path) -> None:
    data = envelope(ID)

    async def test(client: Client) -> None:
        await client.post(data)

        async def status(**headers: str) -> int:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.ask("GET", f"/{ID}", headers=sent))[0]

        etag = (await client.ask("HEAD", f"/{ID}"))[2]["ETag"]
        assert etag == f'"{ID}-{len(data):x}"'
        assert await status(If_None_Match=etag) == 304
        assert await status(If_None_Match=f'"x", W/{etag}') == 304
        assert await status(If_None_Match="*") == 304
        assert await status(If_None_Match='"x"') == 200
        assert await status(If_Match='"x"') == 412
        assert await status(If_Match=etag) == 200
        assert await status(Range="bytes=0-1", If_Range=etag) == 206
        assert await status(Range="bytes=0-1", If_Range='"x"') == 200
        _, body, headers = await client.ask("GET", f"/{ID}", headers={"If-None-Match": etag})
        assert (body, headers["ETag"]) == (b"", etag)

    with_store(tmp_path, test)


# -- bounds --------------------------------------------------------------------------------------

HEAD = b"POST /api/jmix HTTP/1.1\r\nHost: x\r\nContent-Type: application/zip\r\n"


@pytest.mark.fault("S23")
def test_a_body_that_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_IDLE_SECS", 0.05)

    async def test(client: Client) -> None:
        answer = await client.raw(HEAD + b"Content-Length: 100\r\n\r\nPK")
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"nothing of the body came" in answer

    monkeypatch.setattr(limits, "LINGER_SECS", 0.05)
    with_store(tmp_path, test)


@pytest.mark.fault("S23")
def test_a_body_that_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pause is short enough, the whole is too slow.

    The client stops at the answer: bytes that come as the server closes would reset the connection.
    """
    monkeypatch.setattr(limits, "BODY_IDLE_SECS", 0.2)
    monkeypatch.setattr(limits, "BODY_RATE_MIN", 1 << 20)
    monkeypatch.setattr(limits, "LINGER_SECS", 2.0)  # long enough to read the answer

    async def test(client: Client) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(HEAD + b"Content-Length: 1000000\r\n\r\n")
        answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
        async with asyncio.timeout(10):
            while not answer.done():
                writer.write(b"PK")
                await writer.drain()
                await asyncio.wait([answer], timeout=0.02)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        writer.close()

    with_store(tmp_path, test)


@pytest.mark.parametrize("data", [b"", b"GET /api/jmix HTTP/1.1\r\nHost: x\r\nX-Slow: a"])
def test_a_request_that_never_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(limits, "KEEPALIVE_SECS", 0.05)

    async def test(client: Client) -> None:
        assert await client.raw(data) == b""

    with_store(tmp_path, test)


def test_a_client_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_STALL_SECS", 0.05)
    data = envelope(ID, image=bytes(32 << 20))

    async def test(client: Client) -> None:
        await client.post(io.BytesIO(data), Connection="close")
        request = f"GET /api/jmix/{ID} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", client.port)) as connection:
            connection.sendall(request)
            await client.until_connections(1)
            await client.until_connections(0)
            connection.settimeout(10)
            received = 0
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(1 << 20):
                    received += len(piece)
            assert received < len(data)

    with_store(tmp_path, test)


@pytest.mark.fault("S21")
def test_connections_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 2)

    async def test(client: Client) -> None:
        held = [await asyncio.open_connection("127.0.0.1", client.port) for _ in range(2)]
        status, answer, headers = await client.ask("GET")
        assert (status, headers["Connection"], headers["Retry-After"]) == (503, "close", "5")
        assert "more than 2 connections" in answer["error"]
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        while (await client.ask("GET"))[0] == 503:
            await asyncio.sleep(0.01)

    with_store(tmp_path, test)


def test_uploads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UPLOADS", 1)

    async def test(client: Client) -> None:
        started, go_on = asyncio.Event(), asyncio.Event()
        data = envelope(ID)

        async def pieces() -> AsyncIterator[bytes]:
            yield data[:100]
            started.set()
            await go_on.wait()
            yield data[100:]

        first = asyncio.create_task(client.post(pieces()))
        await started.wait()
        while not left_behind(tmp_path):
            await asyncio.sleep(0.01)
        status, answer, _ = await client.post(envelope())
        assert (status, "too many uploads" in answer["error"]) == (503, True)
        go_on.set()
        assert (await first)[0] == 201
        assert (await client.post(envelope()))[0] == 201

    with_store(tmp_path, test)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own ENOSPC, from /dev/full."""

    def full(_: Path) -> BinaryIO:
        return os.fdopen(os.open("/dev/full", os.O_RDWR), "r+b", buffering=0)

    monkeypatch.setattr(receiving, "create_private", full)

    async def test(client: Client) -> None:
        status, answer, _ = await client.post(envelope())
        assert (status, "storage is full" in answer["error"]) == (507, True)

    with_store(tmp_path, test)


def test_a_refusal_reaches_a_client_that_is_still_sending(tmp_path: Path) -> None:
    """A sender that reads only when it has sent everything gets it, and the connection stays
    usable.
    """

    def send(port: int) -> list[int]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            statuses = []
            for method, body in (("POST", bytes(32 << 20)), ("GET", None)):
                connection.request(method, "/api/jmix", body, {"Content-Type": "text/plain"})
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
            return statuses

    async def test(client: Client) -> None:
        assert await asyncio.to_thread(send, client.port) == [415, 400]

    with_store(tmp_path, test)


@pytest.mark.fault("S14")
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("", False),
        ("localhost.example.org", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
