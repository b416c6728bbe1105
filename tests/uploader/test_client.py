"""The bytes on the wire, with real servers, and the effect of misbehaving ones."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import socket
import ssl
import time
import uuid
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from fastjmix.config import Credentials, Secret
from fastjmix.uploader import client, connections
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.throttle import PIECE_BYTES_MAX as CHUNK_BYTES
from tests.faults.test_upstream import hostile
from tests.support.envelopes import envelope
from tests.support.nodes import FAST, MEGABYTE, TOKEN, Node, descriptors, node, run, to
from tests.support.sealed import big
from tests.support.upstreams import (
    PATH,
    Raw,
    Seen,
    Small,
    Upstream,
    Wire,
    authority,
    http_head,
    names_its_own,
    says_nothing_for_ever,
)

# -- what is sent ----------------------------------------------------------------------------------


@pytest.mark.fault("F28")
def test_an_envelope_arrives_as_it_was_sealed(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(store.url)) as one:
            envelope_id = one.seal()
            await one.left()
            (post,) = store.posts
            archive = one.spool.path("sent", envelope_id).read_bytes()
            assert post.body == archive
            assert post.path == PATH
            assert post.headers["content-type"] == "application/zip"
            assert not one.spool.outbox_listing.ids()
            receipt = one.receipt(envelope_id)
            assert receipt["status"] == 201
            assert receipt["attempts"] == 1
            assert receipt["url"] == store.url
            assert uuid.UUID(receipt["remote_id"]) != uuid.UUID(envelope_id)
            (line,) = await one.logged("envelope_uploaded")
            assert f"envelope={envelope_id}" in line
            assert "status=201 attempt=1" in line
            assert receipt["remote_id"] in line
            totals = one.page.totals()
            assert totals["envelopes_uploaded_total"] == 1
            assert totals["upload_bytes_total"] == len(archive)
            assert totals["outbox_envelopes"] == 0

    run(test)


@pytest.mark.parametrize(
    ("setting", "version", "chunked"),
    [
        ("auto", "1.1", False),
        ("auto", "1.0", False),
        ("chunked", "1.1", True),
        ("content-length", "1.1", False),
    ],
)
def test_the_bytes_on_the_wire(tmp_path: Path, setting: str, version: str, chunked: bool) -> None:
    arrived: list[tuple[bytes, bytes]] = []

    async def serve(wire: Wire) -> None:
        head = await wire.head()
        arrived.append((head, await wire.body(head)))
        await wire.say(http_head("201 Created", version, Content_Length=0))

    async def test() -> None:
        credentials = Credentials(method="bearer", token=Secret(TOKEN))
        async with Raw(serve).open() as store:
            upstream = to(store.url, transfer_encoding=setting, credentials=credentials)
            async with node(tmp_path, upstream) as one:
                big_enough = envelope(image=os.urandom(3 * CHUNK_BYTES + 7))
                envelope_id = one.seal(big_enough)
                await one.left()
                assert one.receipt(envelope_id)["attempts"] == 1
                assert arrived[0][1] == big_enough

    run(test)
    ((head, body),) = arrived
    lines = head.split(b"\r\n")
    assert lines[0] == f"POST {PATH} HTTP/1.1".encode()
    assert f"Authorization: Bearer {TOKEN}".encode() in lines
    assert b"Content-Type: application/zip" in lines
    assert b"Accept-Encoding: identity" in lines
    assert (b"Transfer-Encoding: chunked" in lines) is chunked
    assert (f"Content-Length: {len(body)}".encode() in lines) is not chunked
    names = [line.split(b":")[0].lower() for line in lines]
    assert b"expect" not in names
    assert b"cookie" not in names
    assert names.count(b"content-length") + names.count(b"transfer-encoding") == 1


@pytest.mark.fault("F42")
def test_an_http_1_0_upstream_gets_a_length_and_the_whole_body(tmp_path: Path) -> None:
    async def test() -> None:
        server = Small(names_its_own, version="HTTP/1.0")
        with server.open() as url:
            async with node(tmp_path, to(url)) as one:
                sealed = {one.seal(envelope(image=os.urandom(MEGABYTE))) for _ in range(5)}
                await one.left(5)
                sizes = {one.ticket("sent", each).size_bytes for each in sealed}
        assert set(server.sizes) == sizes
        assert len(server.seen) == 5

    run(test)


@pytest.mark.fault("F37")
@pytest.mark.parametrize("setting", ["chunked", "content-length"])
def test_a_large_archive_takes_no_memory(tmp_path: Path, setting: str) -> None:
    def peak() -> int:
        return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]

    async def test() -> None:
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url, transfer_encoding=setting)) as one,
        ):
            small = one.seal()
            await one.left(1)  # everything that is allocated once is allocated now
            Path("/proc/self/clear_refs").write_text("5")
            before = peak()
            size = 200 * MEGABYTE
            envelope_id = one.seal(big(tmp_path / "big.zip", size))
            await one.left(2)
            assert peak() - before < 24 * MEGABYTE
            expected = hashlib.sha256()
            with one.spool.path("sent", envelope_id).open("rb") as file:
                while chunk := file.read(MEGABYTE):
                    expected.update(chunk)
            assert store.posts[-1].sha256 == expected.hexdigest()
            assert one.receipt(small)["attempts"] == 1

    run(test)


# -- misbehaviour ----------------------------------------------------------------------------------


async def closes_before_the_body(wire: Wire) -> None:
    await wire.head()


async def resets_before_the_body(wire: Wire) -> None:
    await wire.head()
    wire.reset()


async def resets_amid_the_body(wire: Wire) -> None:
    await wire.head()
    await wire.take(64 * 1024)
    wire.reset()


async def says_nothing_and_closes(wire: Wire) -> None:
    await wire.head()
    await wire.chunked()


async def stops_reading(wire: Wire) -> None:
    await wire.head()
    await wire.take(64 * 1024)
    await asyncio.sleep(60)


async def speaks_no_http(wire: Wire) -> None:
    await wire.head()
    await wire.chunked()
    await wire.say(b"220 smtp.example ESMTP\r\n" + b"\0" * 100)


async def closes_amid_its_header(wire: Wire) -> None:
    await wire.head()
    await wire.chunked()
    await wire.say(b"HTTP/1.1 201 Created\r\nContent-Le")


async def agrees_before_the_body(wire: Wire) -> None:
    await wire.head()
    await wire.say(http_head("201 Created", Content_Length=0))
    await asyncio.sleep(60)


async def answers_two_lengths(wire: Wire) -> None:
    await wire.head()
    await wire.chunked()
    await wire.say(b"HTTP/1.1 201 Created\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")


MISBEHAVIOUR = [
    closes_before_the_body,
    resets_before_the_body,
    resets_amid_the_body,
    says_nothing_and_closes,
    says_nothing_for_ever,
    stops_reading,
    speaks_no_http,
    closes_amid_its_header,
    agrees_before_the_body,
    answers_two_lengths,
]


@pytest.mark.fault("F39")
@pytest.mark.parametrize("misbehave", MISBEHAVIOUR, ids=lambda each: each.__name__)
def test_misbehaviour_is_no_delivery_and_the_next_attempt_is(
    tmp_path: Path, misbehave: Callable[[Wire], Awaitable[None]]
) -> None:
    bodies: list[str] = []
    first = True

    async def serve(wire: Wire) -> None:
        nonlocal first
        if first:
            first = False
            await misbehave(wire)
            return
        while True:
            await wire.head()
            bodies.append(hashlib.sha256(await wire.chunked()).hexdigest())
            await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        async with Raw(serve).open() as store:
            # timeout_secs ends silence; it stays well above the time without progress.
            upstream = to(store.url, timeout_secs=2.0, transfer_encoding="chunked")
            async with node(tmp_path, upstream) as one:
                envelope_id = one.seal(big(tmp_path / "big.zip", 16 * MEGABYTE))
                started = time.monotonic()
                await one.logged("upload_retry")
                assert time.monotonic() - started < 5
                await one.left()
                assert one.receipt(envelope_id)["attempts"] >= 2
                assert len(one.lines("envelope_uploaded")) == 1
                with one.spool.path("sent", envelope_id).open("rb") as file:
                    assert bodies == [hashlib.file_digest(file, "sha256").hexdigest()]

    run(test)


@pytest.mark.fault("F35")
def test_failures_leave_no_descriptor_behind(tmp_path: Path) -> None:
    async def serve(wire: Wire) -> None:
        behaviour = (resets_amid_the_body, speaks_no_http, agrees_before_the_body, stops_reading)
        await behaviour[len(store.connections) % 4](wire)

    store = Raw(serve)

    async def test() -> None:
        async with store.open():
            pace = replace(FAST, time_limits=replace(FAST.time_limits, stall=0.05))
            upstream = to(store.url, transfer_encoding="chunked")
            async with node(tmp_path, upstream, pace) as one:
                one.seal(big(tmp_path / "big.zip", 16 * MEGABYTE))
                await one.logged("upload_retry", 4)
                early = descriptors() - len(store.connections)
                await one.logged("upload_retry", 16)
                assert descriptors() - len(store.connections) <= early

    run(test)


@pytest.mark.fault("F38")
def test_bytes_that_the_kernel_cannot_place_are_no_progress(tmp_path: Path) -> None:
    """An archive that fits the socket's buffer, and a peer whose window is closed."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}{PATH}"
            pace = replace(FAST, time_limits=TimeLimits(stall=0.4))
            upstream = to(url, transfer_encoding="content-length", timeout_secs=60)
            async with node(tmp_path, upstream, pace) as one:
                one.seal(envelope(image=bytes(CHUNK_BYTES // 2)))
                (line,) = await one.logged("upload_retry")
                assert "connection broken: Connection timed out" in line

    run(test)


@pytest.mark.fault("F42")
@pytest.mark.parametrize("closes", [False, True])
def test_an_early_refusal_ends_the_body(tmp_path: Path, closes: bool) -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.take(64 * 1024)
        await wire.say(http_head("413 Content Too Large", Content_Length=0, Connection="close"))
        if not closes:
            with contextlib.suppress(asyncio.IncompleteReadError):
                await wire.take(1 << 40)  # what was under way when it answered

    async def test() -> None:
        async with Raw(serve).open() as store, node(tmp_path, to(store.url)) as one:
            started = time.monotonic()
            envelope_id = one.seal(big(tmp_path / "big.zip", 64 * MEGABYTE))
            assert await one.left() == [("rejected", envelope_id)]
            assert time.monotonic() - started < 2
            assert one.refusal(envelope_id)["status"] == 413

    run(test)


def test_a_kept_connection_that_was_closed_costs_no_failure(tmp_path: Path) -> None:
    """The body was sent twice, and both are counted."""

    async def serve(wire: Wire) -> None:
        await wire.body(await wire.head())
        await wire.say(http_head("201 Created", Content_Length=0))
        await wire.head()  # the next request, which it does not answer
        wire.reset()

    async def test() -> None:
        async with Raw(serve).open() as store, node(tmp_path, to(store.url)) as one:
            for number in range(1, 4):
                envelope_id = one.seal(ack="uploaded")
                assert (await one.outcome())["outcome"] == "delivered"
                await one.left(number)
                assert one.receipt(envelope_id)["attempts"] == (1 if number == 1 else 2)
            assert len(store.connections) == 3

    run(test)


# -- TLS -------------------------------------------------------------------------------------------


def test_a_private_authority_is_trusted_when_named(tmp_path: Path) -> None:
    async def test() -> None:
        ca_file, tls = authority(tmp_path)
        async with (
            Upstream().open(tls) as store,
            node(tmp_path, to(store.url, ca_file=ca_file)) as one,
        ):
            one.seal(envelope(image=os.urandom(MEGABYTE)))
            await one.left()
            assert "content-length" in store.posts[0].headers

    run(test)


TLS_FAULTS = (
    "not named",
    "another authority",
    "wrong host",
    "no such file",
    "expired",
    "self-signed",
    "TLS 1.0",
    "TLS 1.1",
    "wants a certificate, TLS 1.2",
    "wants a certificate, TLS 1.3",
)


def faulty_tls(directory: Path, fault: str) -> tuple[Path | None, ssl.SSLContext]:
    """Returns the authority that the uploader trusts, and the server's TLS settings."""
    ca_file, tls = authority(
        directory,
        "127.0.0.2" if fault == "wrong host" else "127.0.0.1",
        days=-1 if fault == "expired" else 1,
        self_signed=fault == "self-signed",
    )
    if fault in ("TLS 1.0", "TLS 1.1"):
        tls.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            tls.minimum_version = ssl.TLSVersion.TLSv1
            tls.maximum_version = ssl.TLSVersion["TLSv1" if fault == "TLS 1.0" else "TLSv1_1"]
    if fault.startswith("wants a certificate"):
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(ca_file)
        tls.maximum_version = ssl.TLSVersion[f"TLSv1_{fault[-1]}"]
    if fault == "another authority":
        (directory / "other").mkdir()
        return authority(directory / "other")[0], tls
    return {"not named": None, "no such file": directory / "none.pem"}.get(fault, ca_file), tls


def test_a_connection_that_is_not_made_names_the_host(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def test() -> None:
        async with node(tmp_path, to(f"http://user:secret@127.0.0.1:{port}/api/jmix")) as one:
            one.seal()
            line = (await one.logged("upload_retry"))[0]
            assert f"no connection: 127.0.0.1:{port}: " in line
            assert "secret" not in line

    run(test)


def test_a_plain_http_port_behind_an_https_address_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            upstream = to(store.url.replace("http:", "https:"))
            async with node(tmp_path, upstream) as one:
                one.seal()
                line = (await one.logged("upload_retry"))[0]
                assert "TLS refused: 127.0.0.1:" in line
                assert "is it a plain http port behind an https address?" in line

    run(test)


@pytest.mark.fault("F36")
@pytest.mark.parametrize("fault", TLS_FAULTS)
def test_an_upstream_that_cannot_be_trusted_gets_not_one_byte(tmp_path: Path, fault: str) -> None:
    received = bytearray()

    async def serve(wire: Wire) -> None:
        received.extend(await wire.reader.read())

    async def test() -> None:
        ca_file, tls = faulty_tls(tmp_path, fault)
        async with Raw(serve).open(tls) as store:
            credentials = Credentials(method="bearer", token=Secret(TOKEN))
            upstream = to(
                store.url, ca_file=ca_file, transfer_encoding="chunked", credentials=credentials
            )
            async with node(tmp_path, upstream) as one:
                envelope_id = one.seal()
                lines = await one.logged("upload_retry", 2)
                # A server that rejects us may end the handshake without an alert.
                by_them = fault.startswith(("TLS", "wants"))
                words = "TLS|handshake|connection broken" if by_them else "TLS refused"
                assert re.search(words, lines[0])
                (alarm,) = one.lines("upstream_paused")
                assert " error " in alarm
                assert one.spool.outbox_listing.ids() == [envelope_id]
        assert not received

    run(test)


@pytest.mark.fault("F40")
@pytest.mark.parametrize(
    ("headers", "fits"),
    [
        ([b"X: " + b"v" * (connections.HEADER_LINE_BYTES_MAX - 1)], True),
        ([b"X: " + b"v" * connections.HEADER_LINE_BYTES_MAX], True),
        ([b"X: " + b"v" * (connections.HEADER_LINE_BYTES_MAX + 1)], False),
        ([b"X-%d: v" % n for n in range(connections.HEADERS_MAX - 2)], True),
        ([b"X-%d: v" % n for n in range(connections.HEADERS_MAX - 1)], True),
        ([b"X-%d: v" % n for n in range(connections.HEADERS_MAX)], False),
    ],
    ids=[
        "a value under",
        "a value at",
        "a value over",
        "headers under",
        "headers at",
        "headers over",
    ],
)
def test_the_limits_of_an_answers_head(tmp_path: Path, headers: list[bytes], fits: bool) -> None:
    """Each answer has Content-Length beside the headers that are counted here."""

    async def behave(wire: Wire) -> None:
        await wire.say(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n")
        await wire.say(b"".join(header + b"\r\n" for header in headers) + b"\r\n")

    async def then(one: Node) -> None:
        await one.left(2)
        assert bool(one.lines("upload_retry")) is not fits

    run(lambda: hostile(tmp_path, behave, then))


@pytest.mark.fault("F40")
@pytest.mark.parametrize("size", [-1, 0, 1])
def test_the_limit_of_an_answers_body(tmp_path: Path, size: int) -> None:
    """Up to the limit an answer is read whole, so that the id at its end is found."""

    async def test() -> None:
        remote_id = str(uuid.uuid4())
        end = b'"id": "%s"}' % remote_id.encode()
        text = b"{" + end.rjust(client.ANSWER_BYTES_MAX + size - 1)

        def respond(_: web.BaseRequest, __: Seen) -> web.Response:
            return web.Response(status=201, body=text)

        async with Upstream(respond).open() as store, node(tmp_path, to(store.url)) as one:
            envelope_id = one.seal()
            await one.left()
            assert one.receipt(envelope_id)["remote_id"] == (None if size > 0 else remote_id)

    run(test)
