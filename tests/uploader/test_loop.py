"""outbox → upstream → sent, with real servers, real files and real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import time
import tracemalloc
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fastjmix.config import Credentials, Secret
from fastjmix.spool import FreeSpace
from fastjmix.uploader import moves
from fastjmix.uploader.maintenance import StorageLimits
from fastjmix.uploader.queue import Key, Queue, key_of
from fastjmix.uploader.retry import Backoff
from tests.support.envelopes import envelope
from tests.support.nodes import FAST, MEGABYTE, TOKEN, Node, node, run, to, until
from tests.support.sealed import big, sealed, sealed_envelope
from tests.support.upstreams import (
    PATH,
    Raw,
    Seen,
    Upstream,
    Wire,
    answer,
    http_head,
    says_nothing_for_ever,
    script,
    taken,
)

# -- what comes back -------------------------------------------------------------------------------


@pytest.mark.fault("F43")
@pytest.mark.parametrize("status", [201, 202, 204])
def test_any_2xx_is_a_delivery(tmp_path: Path, status: int) -> None:
    async def test() -> None:
        async with (
            Upstream(script(answer(status))).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            envelope_id = one.seal()
            await one.left()
            receipt = one.receipt(envelope_id)
            assert receipt["status"] == status
            assert receipt["remote_id"] is None

    run(test)


@pytest.mark.fault("F29")
@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_a_refusal_is_kept_with_its_reason(tmp_path: Path, status: int) -> None:
    async def test() -> None:
        refused = answer(status, {"error": "x" * 9000}, X_Request_Id="7")
        async with Upstream(script(refused)).open() as store, node(tmp_path, to(store.url)) as one:
            first = one.seal()
            await one.left(1)
            second = one.seal()
            assert await one.left(2) == [("rejected", first), ("sent", second)]
            refusal = one.refusal(first)
            assert refusal["status"] == status
            assert refusal["headers"]["x-request-id"] == "7"
            assert len(refusal["body"]) == 4096
            assert refusal["attempts"] == 1
            assert one.spool.path("rejected", first).exists()
            (line,) = await one.logged("envelope_rejected")
            assert f"status={status}" in line
            assert ' answer="{\\"error\\":' in line
            assert 100 < line.count("x") <= 200
            assert line.endswith(" study=1.2.3")
            assert one.page.totals()["envelopes_rejected_total"] == 1

    run(
        test,
    )


@pytest.mark.fault("F29")
def test_a_refusal_wrapped_in_200_is_a_refusal(tmp_path: Path) -> None:
    async def test() -> None:
        wrapped = answer(200, {"response": {"status": 400, "body": "validation failed"}})
        async with Upstream(script(wrapped)).open() as store, node(tmp_path, to(store.url)) as one:
            envelope_id = one.seal()
            assert await one.left() == [("rejected", envelope_id)]
            assert one.refusal(envelope_id)["status"] == 400

    run(test)


@pytest.mark.fault("F34")
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507])
def test_what_may_pass_is_tried_again_with_the_same_bytes(tmp_path: Path, status: int) -> None:
    async def test() -> None:
        async with (
            Upstream(script(status, status)).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            envelope_id = one.seal()
            await one.left()
            assert one.receipt(envelope_id)["attempts"] == 3
            assert len({post.sha256 for post in store.posts}) == 1
            first, second = one.lines("upload_retry")
            assert f"status={status} attempt=1" in first
            assert f"status={status} attempt=2" in second
            assert one.page.totals()["uploads_failed_total"] == 2

    run(test)


@pytest.mark.fault("F43")
def test_an_id_that_must_match_and_does_not_is_no_delivery(tmp_path: Path) -> None:
    def repeat(_: web.BaseRequest, seen: Seen) -> web.Response:
        known = [one.sha256 for one in seen_before]
        seen_before.append(seen)
        if seen.sha256 in known:
            return answer(409)
        return answer(201, {"id": "something else"})

    def manifest(request: web.BaseRequest, _: Seen) -> web.Response:
        return answer(200, {**MANIFEST, "id": request.path.split("/")[-2]})

    seen_before: list[Seen] = []

    async def test() -> None:
        async with (
            Upstream(repeat, manifest).open() as store,
            node(tmp_path, to(store.url, require_matching_id=True)) as one,
        ):
            envelope_id = one.seal()
            assert await one.left() == [("sent", envelope_id)]
            assert one.receipt(envelope_id)["attempts"] == 2
            assert one.receipt(envelope_id)["verified"]

    run(test)


MANIFEST = {"type": "envelope", "version": 1, "content": {"type": "directory", "path": "payload"}}


@pytest.mark.fault("F31")
@pytest.mark.parametrize(
    ("theirs", "where"),
    [(MANIFEST, "sent"), ({**MANIFEST, "version": 2}, "rejected"), (None, "rejected")],
)
@pytest.mark.parametrize("ambiguous", [True, False])
def test_a_conflict_is_verified(
    tmp_path: Path, theirs: dict[str, Any] | None, where: str, ambiguous: bool
) -> None:
    if ambiguous and theirs is None:
        where = "outbox"  # it may be arriving still: tests of F93

    async def post(request: web.BaseRequest, seen: Seen) -> web.Response:
        if len(store.posts) == 1:
            return taken(request, seen)  # later arrivals were not there at the start
        if ambiguous and len(store.posts) == 2:
            assert request.transport is not None
            request.transport.close()  # it has the whole body, and gives no answer
        return answer(409, {"error": "exists"})

    def manifest(request: web.BaseRequest, seen: Seen) -> web.Response:
        assert seen.headers["authorization"] == f"Bearer {TOKEN}"
        if theirs is None:
            return answer(404)
        return answer(200, {"id": request.path.split("/")[-2], **theirs})

    store = Upstream(post, manifest)

    async def test() -> None:
        credentials = Credentials(method="bearer", token=Secret(TOKEN))
        async with store.open():
            upstream = to(store.url, credentials=credentials, transfer_encoding="chunked")
            async with node(tmp_path, upstream) as one:
                one.seal()
                await one.left(1)
                envelope_id = one.seal()
                if where == "outbox":
                    await store.wait(3, "GET")
                    assert one.spool.outbox_listing.ids() == [envelope_id]
                    return
                assert (await one.left(2))[1] == (where, envelope_id)
                (asked,) = await store.wait(1, "GET")
                assert asked.path == f"{PATH}/{envelope_id}/manifest"
                if where == "sent":
                    assert one.receipt(envelope_id)["verified"]
                    assert one.receipt(envelope_id)["attempts"] == 1 + ambiguous
                else:
                    assert one.refusal(envelope_id)["status"] == 409
                    assert "manifest" in one.refusal(envelope_id)["reason"]

    run(test)


@pytest.mark.fault("F31")
def test_a_conflict_that_cannot_be_verified_now_is_verified_later(tmp_path: Path) -> None:
    asked: list[str] = []

    def manifest(request: web.BaseRequest, _: Seen) -> web.Response:
        asked.append(request.path)
        if len(asked) < 3:
            return answer(503)
        return answer(200, {"id": request.path.split("/")[-2], **MANIFEST})

    async def test() -> None:
        async with (
            Upstream(lambda *_: answer(409), manifest).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            envelope_id = one.seal()
            assert await one.left() == [("sent", envelope_id)]

    run(test)


# -- holds and pauses ------------------------------------------------------------------------------


@pytest.mark.fault("F30")
@pytest.mark.parametrize("status", [401, 403])
def test_credentials_at_fault_hold_the_upstream_and_drop_nothing(
    tmp_path: Path, status: int
) -> None:
    locked = True

    def guard(request: web.BaseRequest, seen: Seen) -> web.Response:
        if not locked:
            return taken(request, seen)
        return answer(status, {"error": "not for you", "sent": seen.headers["authorization"]})

    async def test() -> None:
        nonlocal locked
        credentials = Credentials(method="bearer", token=Secret(TOKEN))
        async with (
            Upstream(guard).open() as store,
            node(tmp_path, to(store.url, credentials=credentials)) as one,
        ):
            sealed = {one.seal() for _ in range(12)}
            started = time.monotonic()
            posts = await store.wait(6)
            # Four got the answer at once; from then on one at a time, and not before hold_secs.
            assert time.monotonic() - started >= 2 * FAST.hold_secs
            assert len(posts) == 6
            assert one.page.totals()["upstreams_held"] == 1
            assert len(one.spool.outbox_listing.ids()) == 12
            (line,) = one.lines("upstream_held")
            assert "error" in line
            assert f"status={status}" in line
            assert "not for you" in line
            assert TOKEN not in one.log.read_text()
            locked = False
            moves = await one.left(12)
            assert {envelope_id for where, envelope_id in moves if where == "sent"} == sealed
            assert one.page.totals()["upstreams_held"] == 0
            assert len(one.lines("upstream_resumed")) == 1

    run(test)


@pytest.mark.fault("F35")
def test_an_upstream_that_is_down_is_asked_by_one_envelope_at_a_time(tmp_path: Path) -> None:
    down = True
    connections = 0

    async def serve(wire: Wire) -> None:
        nonlocal connections
        connections += 1
        if down:
            wire.reset()
            return
        while True:
            await wire.body(await wire.head())
            await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        nonlocal down
        async with Raw(serve).open() as store:
            pace = replace(FAST, backoff=Backoff(base=0.05, cap=0.1))
            upstream = to(store.url, max_retries=50)
            async with node(tmp_path, upstream, pace, start=False) as one:
                sealed = [one.seal() for _ in range(100)]
                one.start()
                await one.logged("upload_retry", 8)
                assert connections <= 16
                assert len(one.lines("upstream_paused")) == 1
                down = False
                moves = await one.left(100)
                assert {found for _, found in moves} == set(sealed)
                assert len(one.lines("upstream_resumed")) == 1

    run(test)


@pytest.mark.fault("F35")
def test_nothing_listens_and_then_something_does(tmp_path: Path) -> None:
    async def test() -> None:
        with socket.socket() as reserved:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reserved.bind(("127.0.0.1", 0))
            port = reserved.getsockname()[1]
            async with node(tmp_path, to(f"http://127.0.0.1:{port}{PATH}")) as one:
                envelope_id = one.seal(envelope(MANIFEST_ID), id=MANIFEST_ID)
                lines = await one.logged("upload_retry", 3)
                assert "no connection" in lines[0]
                assert f" host=127.0.0.1:{port} " in lines[0] + " "
                (paused,) = one.lines("upstream_paused")
                assert f" host=127.0.0.1:{port} " in paused + " "
                reserved.listen()
                reserved.setblocking(False)
                loop = asyncio.get_running_loop()
                connection, _ = await loop.sock_accept(reserved)
                reader, writer = await asyncio.open_connection(sock=connection)
                wire = Wire(reader, writer)
                await wire.body(await wire.head())
                await wire.say(http_head("201 Created", Content_Length=0))
                await one.left()
                assert one.receipt(envelope_id)["attempts"] >= 4
                writer.close()

    run(test)


MANIFEST_ID = "550e8400-e29b-41d4-a716-446655440000"


def test_no_more_uploads_at_once_than_allowed_and_the_oldest_first(tmp_path: Path) -> None:
    now = most = 0

    async def slow(request: web.BaseRequest, seen: Seen) -> web.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.01)
        now -= 1
        return taken(request, seen)

    async def test() -> None:
        async with (
            Upstream(slow).open() as store,
            node(tmp_path, to(store.url), start=False) as one,
        ):
            sealed = [one.seal(envelope(image=bytes([n]))) for n in range(24)]
            one.start()
            await one.left(24)
            order = [hashlib.sha256(archive(one, each)).hexdigest() for each in sealed]
            came = [order.index(post.sha256) for post in store.posts]
            assert all(abs(place - n) < 4 for n, place in enumerate(came))

    run(test)
    assert most == 4


def archive(one: Node, envelope_id: str) -> bytes:
    return one.spool.path("sent", envelope_id).read_bytes()


# -- ack = "uploaded" ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "word", "where"),
    [
        (201, "delivered", "sent"),
        (204, "delivered", "sent"),
        (400, "refused", "rejected"),
        (413, "refused", "rejected"),
        (409, "refused", "rejected"),
        (404, "failed", "withdrawn"),
        (500, "failed", "withdrawn"),
        (503, "failed", "withdrawn"),
        (401, "failed", "withdrawn"),
        (302, "failed", "withdrawn"),
    ],
)
def test_the_process_that_waits_gets_the_outcome_of_the_one_attempt(
    tmp_path: Path, status: int, word: str, where: str
) -> None:
    async def test() -> None:
        async with (
            Upstream(script(201, status)).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            one.seal()
            await one.left()  # later arrivals were not there at the start
            envelope_id = one.seal(ack="uploaded")
            report = await one.outcome()
            assert report["id"] == envelope_id
            assert report["outcome"] == word
            assert report["status"] == status
            assert report["detail"]
            # The disk is in that state when the report comes.
            assert not one.spool.outbox_listing.ids()
            assert (await one.left(2))[1] == (where, envelope_id)
            assert len(store.posts) == 2

    run(test)


def test_the_process_that_waits_gets_a_timeout_and_a_closed_port(tmp_path: Path) -> None:
    async def test() -> None:
        async with Raw(says_nothing_for_ever).open() as store:
            upstream = to(store.url, timeout_secs=0.3)
            async with node(tmp_path / "slow", upstream) as one:
                one.seal(ack="uploaded")
                assert (await one.outcome())["outcome"] == "timeout"
        async with node(tmp_path / "gone", to(store.url)) as one:
            one.seal(ack="uploaded")
            report = await one.outcome()
            assert report["outcome"] == "failed"
            assert report["status"] is None
            assert "no connection" in report["detail"]
            assert not one.spool.outbox_listing.ids()

    run(test)


def test_a_hold_is_reported_at_once_and_without_an_upload(tmp_path: Path) -> None:
    async def test() -> None:
        pace = replace(FAST, hold_secs=60)
        async with (
            Upstream(script(401)).open() as store,
            node(tmp_path, to(store.url), pace) as one,
        ):
            for _ in range(3):
                one.seal(ack="uploaded")
                report = await one.outcome()
                assert (report["outcome"], report["status"]) == ("failed", 401)
            assert len(store.posts) == 1

    run(test)


def test_an_awaited_envelope_goes_first(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            pace = replace(FAST, at_once=1)
            async with node(tmp_path, to(store.url), pace, start=False) as one:
                for _ in range(10):
                    one.seal()
                urgent = one.seal(ack="uploaded")
                one.start()
                assert (await one.left(11))[0] == ("sent", urgent)

    run(test)


# -- leftovers, stops, disks -----------------------------------------------------------------------


def test_what_was_left_is_delivered_after_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with Raw(says_nothing_for_ever).open() as store, node(tmp_path, to(store.url)) as one:
            sealed = {one.seal() for _ in range(5)}
            await until(lambda: len(store.connections) == 4)
            started = time.monotonic()
        assert time.monotonic() - started < 2
        assert {path.stem for path in (tmp_path / "outbox").glob("*.zip")} == sealed
        async with Upstream().open() as well, node(tmp_path, to(well.url)) as one:
            moves = await one.left(5)
            assert {envelope_id for _, envelope_id in moves} == sealed

    run(test)


def test_a_stop_withdraws_what_was_never_promised(tmp_path: Path) -> None:
    async def test() -> None:
        async with Raw(says_nothing_for_ever).open() as store:
            one = Node(tmp_path, FAST, to(store.url))
            one.start()
            awaited, stored = one.seal(ack="uploaded"), one.seal()
            await until(lambda: len(store.connections) == 2)
            os.eventfd_write(one.channels.stop, 1)
            assert (await one.outcome())["id"] == awaited
            await one.stop()
            assert one.spool.outbox_listing.ids() == [stored]

    run(test)


@pytest.mark.fault("F24")
def test_damaged_archives_are_rejected_and_nothing_is_sent(tmp_path: Path) -> None:
    def spoil(one: Node) -> dict[str, str]:
        found: dict[str, str] = {}
        good, ours = envelope(), sealed_envelope()
        found[one.seal(good[:-1])] = "not a ZIP"
        found[one.seal(good + b"trailing")] = "bytes behind its end of central directory"
        found[one.seal(b"")] = "not a ZIP"
        found[one.seal(b"no archive at all")] = "not a ZIP"
        found[one.seal(good, size_bytes=len(good) + 1)] = "sealed with"
        found[one.seal(ours[:-1], crc32=None)] = "does not end with"
        found[one.seal(ours + b"trailing", crc32=None)] = "does not end with"
        found[one.seal(b"", crc32=None)] = "too few"
        found[one.seal(good, crc32=None)] = "not as fastjmix writes it"
        found[one.seal(sealed({"a": b"b"})[1:], crc32=None)] = "should end at"
        return found

    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(store.url), start=False) as one:
            expected = spoil(one)
            one.start()
            moves = await one.left(len(expected))
            assert {(where, each) for where, each in moves} == {
                ("rejected", each) for each in expected
            }
            for each, words in expected.items():
                assert words in one.refusal(each)["reason"]
            assert not store.seen
            assert len(one.lines("envelope_rejected")) == len(expected)

    run(test)


@pytest.mark.fault("F24")
def test_an_archive_that_shrinks_while_it_is_read_is_not_delivered(tmp_path: Path) -> None:
    async def serve(wire: Wire) -> None:
        await wire.head()
        await wire.take(64 * 1024)
        os.truncate(outbox[0], MEGABYTE)
        with contextlib.suppress(asyncio.IncompleteReadError):
            await wire.take(1 << 40)

    outbox: list[Path] = []

    async def test() -> None:
        async with Raw(serve).open() as store, node(tmp_path, to(store.url)) as one:
            envelope_id = one.seal(big(tmp_path / "big.zip", 64 * MEGABYTE))
            outbox.append(one.spool.path("outbox", envelope_id))
            assert await one.left() == [("rejected", envelope_id)]
            (line,) = one.lines("upload_retry")
            assert "became shorter" in line

    run(test)


def test_a_delivery_is_recorded_when_the_disk_lets_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(store.url), start=False) as one:
            envelope_id = one.seal(ack="uploaded")
            sent = one.spool.sent.rename(tmp_path / "taken away")
            one.spool.sent.write_bytes(b"no directory")
            one.start()
            # The upstream has it: the report need not wait for our disk.
            assert (await one.outcome())["outcome"] == "delivered"
            await one.logged("spool_step_failed")
            ids = [
                one.seal() for _ in range(FAST.at_once)
            ]  # and the other envelopes need not wait, either
            await until(lambda: len(store.posts) == 1 + len(ids))
            await until(lambda: len(one.lines("spool_step_failed")) == 1 + len(ids))
            one.spool.sent.unlink()
            sent.rename(one.spool.sent)
            await one.left(1 + len(ids))
            assert len(store.posts) == 1 + len(ids)
            # A line for each, however often it was tried.
            assert len(one.lines("spool_step_failed")) == 1 + len(ids)
            assert one.receipt(envelope_id)["status"] == 201

    run(test)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_deliveries_that_the_disk_does_not_record_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    """While sent/ cannot be written, no more than a few envelopes are uploaded and kept in
    memory.
    """
    monkeypatch.setattr(moves, "MOVES_MAX", 3)

    async def test() -> None:
        slow = replace(FAST, at_once=1)
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url), slow, start=False) as one,
        ):
            ids = [one.seal() for _ in range(3 + off)]
            sent = one.spool.sent.rename(tmp_path / "taken away")
            one.spool.sent.write_bytes(b"no directory")
            one.start()
            await one.logged("spool_step_failed", min(3, 3 + off))
            awaited = one.seal(ack="uploaded")
            assert (await one.outcome())["outcome"] == "delivered"  # a process waits for this one
            assert len(store.posts) == min(3, 3 + off) + 1
            one.spool.sent.unlink()
            sent.rename(one.spool.sent)
            left = await one.left(len(ids) + 1)  # the others go when a move is over
            assert {name for _, name in left} == {*ids, awaited}
            assert len(store.posts) == len(ids) + 1

    run(test)


def test_an_envelope_for_an_upstream_that_is_not_configured_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(store.url)) as one:
            strange = one.seal(upstreams=("elsewhere",))
            known = one.seal(pipeline="another pipeline with the same upstream")
            assert await one.left() == [("sent", known)]
            await one.logged("upstream_unknown")
            assert one.spool.outbox_listing.ids() == [strange]

    run(test)


def test_delivered_envelopes_are_removed_before_the_mark_and_waiting_ones_never(
    tmp_path: Path,
) -> None:
    """Envelopes within age and size are removed when the disk is smaller than `size`."""

    async def test() -> None:
        found = os.statvfs(tmp_path)
        soft = 2 * found.f_bavail * found.f_frsize  # twice what is free, whatever others write
        limits = StorageLimits(secs=1e6, size=1 << 50, room=FreeSpace(tmp_path, soft, 0))
        async with (
            Upstream(script(answer(201), answer(503))).open() as store,
            node(tmp_path, to(store.url), SLOW, limits=limits) as one,
        ):
            one.seal()
            await one.left()
            (line,) = await one.logged("envelopes_expired")
            assert "count=1 for_room=" in line
            waits = one.seal()
            await one.logged("upload_retry")
            assert not list(one.spool.sent.iterdir())
            assert one.spool.outbox_listing.ids() == [waits]

    run(test)


def test_space_is_freed_in_large_portions_between_the_marks(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    free = found.f_bavail * found.f_frsize
    assert FreeSpace(tmp_path, free // 2, 0).wanted() == 0
    wanted = FreeSpace(tmp_path, free, 0).wanted()
    assert 0.09 * free < wanted < 0.11 * free + (1 << 30)  # others write to this disk, too


SLOW = replace(FAST, backoff=Backoff(base=60, cap=60), hold_secs=60)
"""A pace at which nothing is tried again during a test."""


@pytest.mark.fault("F24")
def test_the_scrub_finds_what_rots_while_the_upstream_is_away(tmp_path: Path) -> None:
    async def test() -> None:
        pace = replace(SLOW, at_once=1, upkeep_secs=0.01, scrub_age_secs=900)
        async with (
            Upstream(lambda *_: answer(503)).open() as store,
            node(tmp_path, to(store.url), pace, start=False) as one,
        ):
            probe, young = one.seal(), one.seal()
            old = [one.seal() for _ in range(3)]
            for envelope_id in old:
                path = one.spool.path("outbox", envelope_id)
                if envelope_id != old[1]:
                    flip(path, 60)
                os.utime(path, (time.time() - 1000,) * 2)
            flip(one.spool.path("outbox", young), 60)
            os.utime(one.spool.path("outbox", probe), (1, 1))  # the one that is tried
            one.start()
            assert {envelope_id for _, envelope_id in await one.left(2)} == {old[0], old[2]}
            assert "damaged" in one.refusal(old[0])["reason"]
            assert len(store.posts) == 1
            assert set(one.spool.outbox_listing.ids()) == {probe, old[1], young}
            assert one.page.totals()["outbox_envelopes"] == 3

    run(test)


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_what_a_person_puts_back_is_kept_though_it_fails(tmp_path: Path) -> None:
    """No process waits for its outcome any more, so that it must not be deleted unreported."""

    async def test() -> None:
        async with (
            Upstream(script(answer(400), answer(503))).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            envelope_id = one.seal(ack="uploaded")
            assert await one.left() == [("rejected", envelope_id)]
            for name in (f"{envelope_id}.json", f"{envelope_id}.zip"):
                (one.spool.rejected / name).rename(one.spool.outbox / name)
            one.channels.wake_uploader()
            assert await one.left(2) == [("rejected", envelope_id), ("sent", envelope_id)]
            assert len(one.lines("upload_retry")) == 1

    run(test)


def test_what_a_person_takes_away_is_forgotten_and_may_come_again(tmp_path: Path) -> None:
    async def test() -> None:
        pace = replace(SLOW, rescan_secs=0.02)
        async with (
            Upstream(lambda *_: answer(503)).open() as store,
            node(tmp_path, to(store.url), pace) as one,
        ):
            ids = [one.seal() for _ in range(3)]

            def count() -> int:
                return one.page.totals()["outbox_envelopes"]

            await until(lambda: count() == 3)
            archive = one.spool.path("outbox", ids[2])
            archive.rename(tmp_path / "away.zip")
            await until(lambda: count() == 2)
            (tmp_path / "away.zip").rename(archive)
            await until(lambda: count() == 3)

    run(test)


@pytest.mark.fault("F81")
def test_what_waits_costs_little(tmp_path: Path) -> None:
    """Measures the memory of an envelope that was never tried, with all that its queue needs."""
    count = 100_000
    queue = Queue()
    known: set[Key] = set()
    names = [str(uuid.uuid4()) for _ in range(count)]
    tracemalloc.start()
    for name in names:
        known.add(key := key_of(name))
        queue.add(key, None, maybe_stored=True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{held / count:.0f} bytes each")
    assert held < 120 * count
    found = [item for _ in range(count) if (item := queue.pop_next())]
    assert [item.id for item in found] == names
    assert all(item.maybe_stored for item in found)


def test_a_lost_wake_up_is_made_up_for(tmp_path: Path) -> None:
    async def test() -> None:
        pace = replace(FAST, rescan_secs=0.02)
        async with Upstream().open() as store, node(tmp_path, to(store.url), pace) as one:
            await until(lambda: one.uploader is not None)
            one.seal()
            os.eventfd_read(one.channels.outbox_wake)
            await one.left()

    run(test)
