"""Bounds of HTTP clients, of upstreams' answers and of posted envelopes, at limit - 1, limit
and limit + 1, where no other test has all three: docs/limits.md."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fastjmix import log
from fastjmix.errors import EnvelopeError
from fastjmix.httpd import archive_checks, connection_limit, limits
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.read.admission import EnvelopeSummary, check_envelope
from fastjmix.uploader import answers, receipts
from fastjmix.uploader.answers import Answer
from fastjmix.uploader.outcome import DETAIL_CHARS_MAX, Failure, Kind, Outcome
from fastjmix.uploader.policy import ExpectedId, assess_answer, assess_failure
from tests.jmix.test_admission import check
from tests.support.envelopes import ID, envelope, members, zipped
from tests.support.nodes import FAST, node, run, to
from tests.support.stores import Client, with_store
from tests.support.upstreams import PATH, Raw, Wire, http_head

MACHINE_SECS = 10
"""Seconds that a busy machine may add to a deadline."""


@contextlib.contextmanager
def log_lines() -> Iterator[list[dict[str, Any]]]:
    """Collects what is logged, whatever level or outlets a test before this one has set."""
    lines: list[dict[str, Any]] = []

    def collect(_: log.Logger, level: str, event: str, pairs: dict[str, Any]) -> None:
        lines.append({"event": event, "log_level": level, **pairs})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log.get(), "_least", log.LEVELS["trace"])
        patch.setattr(log.Logger, "_log", collect)
        yield lines


# -- HTTP callers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_characters_of_a_path_in_the_log(tmp_path: Path, off: int) -> None:
    path = "/" + "x" * (limits.SHOWN_PATH + off - len("/api/jmix/"))

    async def test(client: Client) -> None:
        with log_lines() as lines:
            assert (await client.ask("GET", path))[0] == 404
            (line,) = [line for line in lines if line["event"] == "http_request"]
            assert line["path"] == f"/api/jmix{path}"[: limits.SHOWN_PATH]
            assert len(line["path"]) == limits.SHOWN_PATH + min(off, 0)

    with_store(tmp_path, test)


def test_refused_connections_are_logged_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is logged at once; the next line, after a while, counts all since."""
    monkeypatch.setattr(limits, "MAX_CONNECTIONS_EACH", 1)

    async def refused(client: Client) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

    async def test(client: Client) -> None:
        with log_lines() as lines:
            _, held = await asyncio.open_connection("127.0.0.1", client.port)
            await client.until_connections(1)
            monkeypatch.setattr(connection_limit, "TOLD_SECS", 1000.0)
            for _ in range(3):
                await refused(client)
            assert [line["count"] for line in lines] == [1]
            monkeypatch.setattr(connection_limit, "TOLD_SECS", 0.0)
            await refused(client)
            assert [line["count"] for line in lines] == [1, 3]
            held.close()

    with_store(tmp_path, test)


@pytest.mark.parametrize("linger", [0.2, 60.0])
def test_the_rest_of_a_refused_body_is_read_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linger: float
) -> None:
    """The refusal comes at once. A client that then sends no more of the body is cut off when its
    time is over."""
    monkeypatch.setattr(limits, "LINGER_SECS", linger)

    async def test(client: Client) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        began = time.monotonic()
        writer.write(
            b"POST /api/jmix HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
            b"Content-Length: 1000\r\n\r\nPK"
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        while (await reader.readline()).strip():
            pass
        if linger > MACHINE_SECS:
            writer.write(b"x" * 998)  # all of it is read, although it was refused
            assert (await reader.readuntil(b"}")).startswith(b"{")
            writer.write(b"GET /api/jmix/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 404 ")
        else:
            async with asyncio.timeout(8):  # aiohttp's own time is 10 s
                await reader.read()
            assert time.monotonic() - began >= linger
        writer.close()

    with_store(tmp_path, test, max_body_bytes=100)


# -- upstream answers ------------------------------------------------------------------------------


def assessed(answer: Answer) -> Outcome:
    return assess_answer(answer, ExpectedId(ID))


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_characters_of_an_upstreams_id(off: int) -> None:
    found = "x" * (answers.REMOTE_ID_CHARS_MAX + off)
    body = json.dumps({"id": found}).encode()
    assert assessed(Answer(201, body=body)).remote_id == (None if off > 0 else found)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_an_answer_that_are_kept(off: int) -> None:
    body = b"x" * (answers.EXCERPT_BYTES_MAX + off)
    outcome = assessed(Answer(400, body=body))
    kept = receipts.refusal(outcome, url="http://u", attempts=1, at=0.0)["body"]
    assert isinstance(kept, str)
    assert len(kept) == answers.EXCERPT_BYTES_MAX + min(off, 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_characters_of_a_reason(off: int) -> None:
    begins = f"{Kind.BROKEN.value}: "
    detail = "x" * (DETAIL_CHARS_MAX + off - len(begins))
    outcome = assess_failure(Failure(Kind.BROKEN, detail))
    assert len(outcome.reason) == DETAIL_CHARS_MAX + min(off, 0)
    longer = replace(outcome, reason=begins + detail)
    sent = json.loads(longer.report(ID).encode())["detail"]
    assert len(sent) == DETAIL_CHARS_MAX + min(off, 0)


def test_an_answers_body_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    """TimeLimits.answer, and the time for its size: the status is known, and counts."""

    async def serve(wire: Wire) -> None:
        await wire.body(await wire.head())
        await wire.say(http_head("201 Created", Content_Length=1000) + b'{"id": "')
        await asyncio.Event().wait()

    async def test() -> None:
        async with Raw(serve).open() as store:
            upstream = to(store.url, transfer_encoding="content-length", timeout_secs=3600)
            async with node(tmp_path, upstream) as one:
                began = time.monotonic()
                envelope_id = one.seal()
                await one.left()
                assert time.monotonic() - began >= FAST.time_limits.answer
                assert one.receipt(envelope_id)["attempts"] == 1

    run(test)


def test_a_connection_that_is_not_made_is_not_waited_for(tmp_path: Path) -> None:
    """TimeLimits.connect: the kernel of an upstream with a full backlog answers no SYN."""

    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as q:
            port = full.getsockname()[1]
            for _ in range(4):
                waits = q.enter_context(socket.socket())
                waits.setblocking(False)
                waits.connect_ex(("127.0.0.1", port))
            pace = replace(FAST, time_limits=replace(FAST.time_limits, connect=0.2))
            upstream = to(f"http://127.0.0.1:{port}{PATH}", timeout_secs=3600)
            async with node(tmp_path, upstream, pace) as one:
                one.seal()
                (line, *_) = await one.logged("upload_retry")
                assert "no connection: none within 0.2 s" in line

    run(test)


# -- posted envelopes ------------------------------------------------------------------------------

CONTENT = members()
GOOD = zipped(CONTENT)
EXACT = {
    "max_members": len(CONTENT),
    "max_directory_bytes": len(GOOD) - 22 - GOOD.index(b"PK\x01\x02"),
    "max_manifest_bytes": len(CONTENT["manifest.json"]),
    "max_metadata_bytes": len(CONTENT["payload/metadata.json"]),
    "max_unpacked_bytes": sum(map(len, CONTENT.values())),
    "max_name_bytes": max(map(len, CONTENT)),
}


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("name", EXACT)
def test_bounds_of_a_posted_envelope(name: str, off: int) -> None:
    """Checks the same envelope with a bound that is just wide enough, or not."""
    bounds = replace(Limits(), **{name: EXACT[name] + off})
    if off >= 0:
        assert check(GOOD, limits=bounds).id == ID
        return
    with pytest.raises(EnvelopeError, match=f"{name}(,| is) {EXACT[name] - 1}"):
        check(GOOD, limits=bounds)


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_checks_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    """An archive that comes whole while CHECKS_AT_ONCE are checked waits, and is checked then."""
    count = archive_checks.CHECKS_AT_ONCE + off
    most = under_way = 0
    entered, go_on = threading.Condition(), threading.Event()

    def watched(file: BinaryIO, **options: Any) -> EnvelopeSummary:
        nonlocal most, under_way
        with entered:
            under_way += 1
            most = max(most, under_way)
            entered.notify_all()
        go_on.wait(20)
        try:
            return check_envelope(file, **options)
        finally:
            with entered:
                under_way -= 1

    def expected() -> bool:
        with entered:
            return entered.wait_for(
                lambda: under_way == min(count, archive_checks.CHECKS_AT_ONCE), 20
            )

    async def test(client: Client) -> None:
        bodies = [envelope(f"{ID[:-1]}{n}") for n in range(count)]
        posts = [asyncio.create_task(client.post(body)) for body in bodies]
        assert await asyncio.to_thread(expected)
        arriving = tmp_path / "store" / "incoming"
        async with asyncio.timeout(20):
            while sorted(p.stat().st_size for p in arriving.iterdir()) != sorted(map(len, bodies)):
                await asyncio.sleep(0.005)
        assert (await client.ask("GET", f"/{ID}"))[0] == 404  # others are answered meanwhile
        go_on.set()
        assert [(await post)[0] for post in posts] == [201] * count

    monkeypatch.setattr(archive_checks, "check_envelope", watched)
    with_store(tmp_path, test)
    assert most == min(count, archive_checks.CHECKS_AT_ONCE)
