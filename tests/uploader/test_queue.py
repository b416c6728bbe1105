"""Rows F83, F91, F93, F94: answers about the route and not about the envelope; what waits.

Real servers, real files, real sockets; a scaled Pace.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
import uuid
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from fastjmix.ipc.metrics import MetricsPage
from fastjmix.spool import Ticket
from fastjmix.uploader.answers import Answer
from fastjmix.uploader.availability import Availability
from fastjmix.uploader.backlog import Backlog, Found
from fastjmix.uploader.outcome import Disposition
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.policy import assess_status
from fastjmix.uploader.queue import BULK, NORMAL, SHARE, Queue, Waiting, key_of, name_of
from fastjmix.uploader.retry import Backoff
from fastjmix.uploader.target import Target, Targets
from fastjmix.uploader.targets.jmix import JmixClient
from fastjmix.uploader.throttle import Throttle
from fastjmix.uploader.upstream_facts import UpstreamFacts
from tests.support.nodes import FAST, Node, node, run, to, until
from tests.support.sealed import sealed_envelope
from tests.support.upstreams import (
    Manner,
    Raw,
    Reply,
    Seen,
    Small,
    Upstream,
    Wire,
    answer,
    http_head,
    names_it,
    names_its_own,
    shows_a_page,
    taken,
)

QUICK = replace(FAST, hold_secs=0.05, route_secs=0.05)
ONE = replace(QUICK, at_once=1)


def name(envelope_id: str) -> bytes:
    return envelope_id.encode()


# -- F83: a 2xx that no JMIX server gives ----------------------------------------------------------


def always(status: int, body: bytes) -> Manner:
    return lambda _, __: (status, body)


PORTALS: dict[str, Manner] = {
    "a page": shows_a_page,
    "a page, created": always(201, b"<html>Welcome</html>"),
    "nothing": always(200, b""),
    "a list": always(200, b"[]"),
    "a word": always(200, b'"OK"'),
    "an error": always(200, b'{"error": "the token has expired"}'),
    "a wrapped page": always(200, b'{"response": {"status": 200, "body": "<html>log in"}}'),
    "a part": always(206, b"{}"),
}


@pytest.mark.fault("F83")
@pytest.mark.parametrize("manner", PORTALS.values(), ids=PORTALS)
def test_an_answer_of_something_else_holds_the_upstream(tmp_path: Path, manner: Manner) -> None:
    server = Small(manner)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), QUICK) as one:
                made = {one.seal() for _ in range(6)}
                await until(lambda: len(server.seen) >= 8)
                assert set(one.spool.outbox_listing.ids()) == made
                assert one.page.totals()["upstreams_held"] == 1
                (alarm,) = one.lines("upstream_held")
                assert " error " in alarm
                assert "is the URL right" in alarm
                server.manner = names_it
                assert {each for _, each in await one.left(6)} == made
                assert one.page.totals()["upstreams_held"] == 0

    run(test)


@pytest.mark.fault("F83")
@pytest.mark.parametrize("restart", [False, True])
def test_another_id_where_ours_were_named_holds_the_upstream(tmp_path: Path, restart: bool) -> None:
    """Another server answers at that address, also one that came while fastjmix was stopped."""
    server = Small(names_it)

    async def cuckoo(one: Node) -> None:
        server.manner = names_its_own
        envelope_id = one.seal()
        (alarm,) = await one.logged("upstream_held")
        assert "has named ours before" in alarm
        assert one.spool.outbox_listing.ids() == [envelope_id]
        server.manner = names_it
        await until(lambda: ("sent", envelope_id) in one.spool.moves)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), QUICK) as one:
                one.seal()
                await one.left()
                if not restart:
                    await cuckoo(one)
            if restart:
                async with node(tmp_path, to(url), QUICK) as one:
                    await cuckoo(one)

    run(test)


@pytest.mark.fault("F83")
def test_a_waiting_sender_fails_at_once_when_something_else_answers(tmp_path: Path) -> None:
    server = Small(shows_a_page)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), QUICK) as one:
                for _ in range(3):
                    one.seal(ack="uploaded")
                    report = await one.outcome()
                    assert report["outcome"] == "failed"
                    assert "web page" in report["detail"]
                assert not one.spool.outbox_listing.ids()

    run(test)


# -- F91: a status about the route -----------------------------------------------------------------

ROUTE = (404, 405, 406, 410, 414, 418, 421, 423, 431, 451, 460, 499)


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", ROUTE)
def test_one_such_answer_rejects_nothing(tmp_path: Path, status: int) -> None:
    statuses = iter([status, status])

    def passing(body: bytes, envelope_id: str | None) -> Reply:
        found = next(statuses, None)
        return names_it(body, envelope_id) if found is None else (found, b"")

    server = Small(passing)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                envelope_id = one.seal()
                assert await one.left() == [("sent", envelope_id)]
                assert one.receipt(envelope_id)["attempts"] == 3
                (alarm,) = one.lines("upstream_held")
                assert f"status={status}" in alarm
                assert "the URL may be wrong" in alarm

    run(test)


@pytest.mark.fault("F91")
def test_a_misspelt_url_rejects_nothing(tmp_path: Path) -> None:
    right = False

    def routed(body: bytes, envelope_id: str | None) -> Reply:
        return names_it(body, envelope_id) if right else (404, b"<html>not here</html>")

    server = Small(routed)

    async def test() -> None:
        nonlocal right
        with server.open() as url:
            async with node(tmp_path, to(url), QUICK) as one:
                made = {one.seal() for _ in range(12)}
                await until(lambda: len(server.seen) >= 20)
                assert set(one.spool.outbox_listing.ids()) == made
                assert len(one.lines("upstream_held")) == 1
                right = True
                assert set(await one.left(12)) == {("sent", each) for each in made}

    run(test)


@pytest.mark.fault("F91")
@pytest.mark.parametrize("bad", [1, 3])
@pytest.mark.parametrize("status", [404, 423])
def test_an_envelope_that_alone_is_answered_so_holds_nobody_and_is_rejected(
    tmp_path: Path, status: int, bad: int
) -> None:
    """The oldest are the bad ones. Each probe is another envelope, so that the good ones get a
    turn.
    """
    outcasts: set[str | None] = set()

    def choosy(body: bytes, envelope_id: str | None) -> Reply:
        return (status, b"") if envelope_id in outcasts else names_it(body, envelope_id)

    server = Small(choosy)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), ONE, start=False) as one:
                outcasts.update(one.seal() for _ in range(bad))
                good = {one.seal() for _ in range(6)}
                one.start()
                await until(lambda: good <= {each for _, each in one.spool.moves})
                more = 0
                while len(one.spool.moves) < bad + len(good) + more:
                    one.seal()  # each finding needs an acceptance of its own
                    more += 1
                    await asyncio.sleep(0.02)
                    assert more < 200
                rejected = {each for where, each in one.spool.moves if where == "rejected"}
                assert rejected == outcasts
                for each in outcasts:
                    assert one.refusal(str(each))["attempts"] >= 2
                    assert "has taken others since" in one.refusal(str(each))["reason"]
                assert len(one.lines("upstream_held")) <= 2 * bad

    run(test)


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", [401, 403, 302])
def test_an_envelope_that_alone_is_forbidden_holds_nobody_and_is_kept(
    tmp_path: Path, status: int
) -> None:
    """A web application firewall blocks one body: others go on, and that one is never given up."""
    outcast: str | None = None

    def choosy(body: bytes, envelope_id: str | None) -> Reply:
        return (status, b"") if envelope_id == outcast else names_it(body, envelope_id)

    server = Small(choosy)

    async def test() -> None:
        nonlocal outcast
        with server.open() as url:
            async with node(tmp_path, to(url), ONE) as one:
                outcast = one.seal()
                for n in range(20):
                    one.seal()
                    await one.left(n + 1)
                await until(
                    lambda: len([1 for s in server.seen if name(str(outcast)) in s.body]) >= 6
                )
                assert len(one.lines("upstream_held")) == 1
                assert one.spool.outbox_listing.ids() == [outcast]
                outcast = None
                await one.left(21)

    run(test)


@pytest.mark.fault("F91")
def test_answers_that_alternate_do_not_reject_many(tmp_path: Path) -> None:
    """A roll-out: every second answer is 404, for longer than `route_secs`."""
    count = 0

    def alternating(body: bytes, envelope_id: str | None) -> Reply:
        nonlocal count
        count += 1
        return (404, b"") if count % 2 else names_it(body, envelope_id)

    server = Small(alternating)

    async def test() -> None:
        with server.open() as url:
            async with node(tmp_path, to(url), replace(QUICK, route_secs=10.0)) as one:
                made = {one.seal() for _ in range(30)}
                assert set(await one.left(30)) == {("sent", each) for each in made}

    run(test)


@pytest.mark.fault("F91")
def test_a_waiting_sender_is_answered_and_nothing_is_rejected(tmp_path: Path) -> None:
    """A hold for the route stops no awaited envelope: a bad POST does not fail the next
    caller's.
    """
    bad = True

    def choosy(body: bytes, envelope_id: str | None) -> Reply:
        return (404, b"") if bad else names_it(body, envelope_id)

    server = Small(choosy)

    async def test() -> None:
        nonlocal bad
        with server.open() as url:
            pace = replace(QUICK, hold_secs=60, backoff=Backoff(base=60, cap=60))
            async with node(tmp_path, to(url), pace) as one:
                one.seal(ack="uploaded")
                report = await one.outcome()
                assert (report["outcome"], report["status"]) == ("failed", 404)
                bad = False
                one.seal(ack="uploaded")
                assert (await one.outcome())["outcome"] == "delivered"
                assert not any(where == "rejected" for where, _ in one.spool.moves)

    run(test)


@pytest.mark.fault("F91")
def test_each_finding_needs_an_acceptance_of_its_own() -> None:
    """One good answer proves nothing about a hundred envelopes, where good and bad ones
    alternate.
    """
    upstream = to("http://127.0.0.1:1")
    client = JmixClient(upstream, UpstreamFacts("auto"), FAST, Throttle(None))
    availability = Availability(Backoff(), 60)
    target = Target(upstream, client, availability, UpstreamFacts("auto"))
    items = [Waiting(n, n, maybe_stored=True) for n in range(100)]
    not_found = assess_status(Answer(404))

    def dispositions(now: float) -> list[Disposition]:
        return [
            target.reassess(item, not_found, target.taken, now, 10).disposition for item in items
        ]

    assert set(dispositions(0)) == {Disposition.HELD}
    assert set(dispositions(100)) == {Disposition.HELD}  # nothing was taken since
    target.taken += 1
    assert Counter(dispositions(100)) == {Disposition.REFUSED: 1, Disposition.HELD: 99}
    target.taken += 1
    availability.held = not_found  # none while it is held: then the route is at fault again
    assert set(dispositions(200)) == {Disposition.HELD}


@pytest.mark.fault("F91")
@pytest.mark.parametrize("status", [400, 401, 404, 409, 503])
def test_what_a_server_makes_of_a_body_it_has_not_read_is_no_answer_to_another(
    tmp_path: Path, status: int
) -> None:
    """The server refuses without reading the body, and takes the body for the next request."""

    async def serve(wire: Wire) -> None:
        head = await wire.head()
        if b" /api/jmix/" in head:
            await wire.say(http_head("503 Busy", Content_Length=0))
            return
        if len(store.connections) > 1:
            await wire.body(head)
            await wire.say(http_head("201 Created", Content_Length=0))
            return
        await wire.say(http_head(f"{status} No", Content_Length=0))
        await asyncio.sleep(0.01)  # it is the sender's turn, if it comes back on this connection
        refused = b'{"error": "Bad request syntax"}'
        await wire.say(http_head("400 Bad", Content_Length=len(refused)) + refused)
        await wire.reader.read(-1)

    store = Raw(serve)

    async def test() -> None:
        async with store.open(), node(tmp_path, to(store.url), ONE, start=False) as one:
            first, second = one.seal(), one.seal()
            one.start()
            moves = {each: where for where, each in await one.left(2)}
            assert moves == {first: "rejected" if status == 400 else "sent", second: "sent"}
            assert not any(
                "Bad request" in p.read_text() for p in one.spool.rejected.glob("*.json")
            )

    run(test)


@pytest.mark.fault("F91")
@pytest.mark.parametrize("sick", ["200 OK", "201 Created", "206 Partial Content"])
def test_a_body_left_unread_behind_a_2xx_is_not_the_beginning_of_the_next(
    tmp_path: Path, sick: str
) -> None:
    """A page comes before the body is read, which the server then takes for a request's head."""
    page = b"<html>Sign in</html>"
    ill = 2

    async def serve(wire: Wire) -> None:
        nonlocal ill
        while head := await wire.reader.readuntil(b"\r\n\r\n"):
            if not head.startswith(b"POST "):
                await wire.say(http_head("400 Bad Request", Content_Length=0))
                return
            if ill:
                ill -= 1
                await wire.say(http_head(sick, Content_Length=len(page)) + page)
                continue
            await wire.body(head)
            await wire.say(http_head("201 Created", Content_Length=0))

    store = Raw(serve)

    async def test() -> None:
        async with store.open(), node(tmp_path, to(store.url), ONE, start=False) as one:
            first, second = one.seal(), one.seal()
            one.start()
            moves = {each: where for where, each in await one.left(2)}
            assert moves == {first: "sent", second: "sent"}
            assert len(one.lines("upload_retry")) == 2

    run(test)


# -- F93: 409, and no manifest to be had -----------------------------------------------------------

MANIFEST = {"type": "envelope", "version": 1, "content": {"type": "directory", "path": "payload"}}


@pytest.mark.fault("F93")
@pytest.mark.parametrize("first", ["no answer", "500", "found at the start", "a stale connection"])
@pytest.mark.parametrize("copy", [404, 410, 403, 405, 501, 200])
@pytest.mark.parametrize("then", ["stored", "free"])
def test_after_an_attempt_of_unknown_outcome_a_409_without_a_copy_is_asked_again(
    tmp_path: Path, first: str, copy: int, then: str
) -> None:
    """The envelope may still be arriving; or it is dropped, and the id is free."""
    arriving = True

    async def post(request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        mine = [one for one in store.posts if one.sha256 == seen.sha256]
        if first == "a stale connection" and len(store.posts) == 1:
            return taken(request, seen)
        if len(mine) == 1 and first in ("no answer", "a stale connection"):
            assert request.transport is not None
            request.transport.close()
        if len(mine) == 1 and first == "500":
            return answer(500)
        if arriving or then == "stored":
            return answer(409)
        return taken(request, seen)

    def manifest(request: web.BaseRequest, _: Seen) -> web.Response:
        if not arriving:
            return answer(200, {"id": request.path.split("/")[-2], **MANIFEST})
        return web.Response(status=copy, body=b"<html>")

    store = Upstream(post, manifest)

    async def test() -> None:
        nonlocal arriving
        async with store.open(), node(tmp_path, to(store.url), ONE, start=False) as one:
            if first == "a stale connection":
                one.start()
                one.seal()
                await one.left()
            before = len(one.spool.moves)
            envelope_id = one.seal()
            if first != "a stale connection":
                one.start()
            await store.wait(3, "GET")
            assert one.spool.outbox_listing.ids() == [envelope_id]
            assert "asked for again" in one.log.read_text() or copy == 403
            arriving = False
            assert (await one.left(before + 1))[-1] == ("sent", envelope_id)
            assert one.receipt(envelope_id)["verified"] is (then == "stored")
            assert one.receipt(envelope_id)["attempts"] >= 3

    run(test)


# -- F94: what waits when the upstream is back -----------------------------------------------------

Wrong = int | str

AWAY: tuple[Wrong, ...] = (500, 503, 401, 404, 408, "a page", "resets", "resets at once")


async def outage(wire: Wire, wrong: Wrong) -> None:
    if wrong == "resets at once":
        wire.reset()
        return
    await wire.body(await wire.head())
    if wrong == "resets":
        wire.reset()
    elif wrong == "a page":
        await wire.say(http_head("200 OK", Content_Length=6, Connection="close") + b"<html>")
    else:
        await wire.say(http_head(f"{wrong} X", Content_Length=0, Connection="close"))


@pytest.mark.fault("F94")
@pytest.mark.parametrize("wrong", AWAY)
def test_what_waits_is_due_when_the_upstream_is_back_the_oldest_first(
    tmp_path: Path, wrong: Wrong
) -> None:
    """Each has failed so often that it would wait for up to a minute, and new ones came
    meanwhile.
    """
    away = True
    came: list[str] = []
    tried: Counter[bytes] = Counter()

    async def serve(wire: Wire) -> None:
        if away:
            tried["any"] += 1  # type: ignore[index]
            await outage(wire, wrong)
            return
        while True:
            body = await wire.body(await wire.head())
            came.append(body[body.index(b'"id"') :].split(b'"')[3].decode())
            await wire.say(http_head("201 Created", Content_Length=0))

    async def test() -> None:
        nonlocal away
        pace = replace(ONE, backoff=Backoff(base=0.002, cap=60.0), hold_secs=0.02)
        async with Raw(serve).open() as store:
            upstream = to(store.url, max_retries=0)
            async with node(tmp_path, upstream, pace, start=False) as one:
                old = [one.seal(sealed_envelope(i), id=i, crc32=None) for i in ids(8)]
                one.start()
                await until(lambda: tried.total() >= 8)
                young = [one.seal(sealed_envelope(i), id=i, crc32=None) for i in ids(4, "b")]
                await until(lambda: one.page.totals()["outbox_envelopes"] == 12)
                away = False
                began = time.monotonic()
                await one.left(12)
                assert time.monotonic() - began < 8  # one pause of the upstream's, and no more
                order = [*old, *young]
                asked, *rest = came  # the first was the probe
                assert rest == [each for each in order if each != asked]

    run(test)


def ids(count: int, letter: str = "a") -> list[str]:
    return [f"{letter * 8}-0000-4000-8000-{n:012d}" for n in range(count)]


@pytest.mark.fault("F94")
@pytest.mark.parametrize("status", [500, 503, 429, 408])
@pytest.mark.parametrize("flapping", [False, True])
def test_an_envelope_that_alone_fails_does_not_spin(
    tmp_path: Path, status: int, flapping: bool
) -> None:
    """Its pauses double, however often others are taken or the upstream comes back."""
    outcast = str(uuid.uuid4())
    seen_once: set[str | None] = set()

    def choosy(body: bytes, envelope_id: str | None) -> Reply:
        first = flapping and envelope_id not in seen_once
        seen_once.add(envelope_id)
        if envelope_id == outcast:
            return status, b""
        return (503, b"") if first else names_it(body, envelope_id)

    server = Small(choosy)

    async def test() -> None:
        pace: Pace = replace(ONE, backoff=Backoff(base=0.02, cap=30.0))
        with server.open() as url:
            async with node(tmp_path, to(url), pace) as one:
                one.seal(sealed_envelope(outcast), id=outcast, crc32=None)
                await one.logged("upload_retry")
                began = time.monotonic()
                for n in range(60):
                    one.seal()
                    await one.left(n + 1)
                spent = time.monotonic() - began
                tries = sum(name(outcast) in seen.body for seen in server.seen)
                print(f"{tries} tries in {spent:.2f} s")
                assert tries <= 14
                assert spent < 10
                assert one.spool.outbox_listing.ids() == [outcast]
                assert one.page.totals()["outbox_envelopes"] == 1

    run(test)


@pytest.mark.parametrize(
    "name", ["", "-", "x", "1_0", "0x12", "F" * 32, str(uuid.UUID(int=1)).upper(), "f" * 40, "-1"]
)
def test_a_name_that_is_no_id_of_ours_keeps_its_form(name: str) -> None:
    assert name_of(key_of(name)) == name


# -- priorities ------------------------------------------------------------------------------------

STAT = 0


def filled(**counts: int) -> Queue:
    queue = Queue()
    for rank, name in enumerate(("stat", "normal", "bulk")):
        for number in range(counts.get(name, 0)):
            queue.add(f"{name} {number}", None, maybe_stored=False, rank=rank)
    return queue


def ranks(queue: Queue, count: int, *, bulk: bool = True) -> list[int]:
    found = [queue.pop_next(bulk=bulk) for _ in range(count)]
    return [item.rank for item in found if item is not None]


def test_the_urgent_go_first_and_of_one_priority_the_oldest() -> None:
    queue = filled(bulk=2, normal=2, stat=2)
    found = [item.id for _ in range(6) if (item := queue.pop_next()) is not None]
    assert found == ["stat 0", "stat 1", "normal 0", "normal 1", "bulk 0", "bulk 1"]
    assert queue.pop_next() is None


@pytest.mark.parametrize("above", ["stat", "normal"])
def test_bulk_does_not_starve(above: str) -> None:
    queue = filled(**{above: 100, "bulk": 5})
    found = ranks(queue, 5 * (SHARE + 1))
    assert [at for at, rank in enumerate(found) if rank == BULK] == [
        SHARE + n * (SHARE + 1) for n in range(5)
    ]


def test_no_priority_starves_beside_two_others() -> None:
    found = Counter(ranks(filled(stat=200, normal=200, bulk=200), 100))
    assert found[STAT] >= 70
    assert min(found[NORMAL], found[BULK]) >= 100 // (SHARE + 3)


def test_bulk_waits_while_it_may_not_go() -> None:
    queue = filled(normal=1, bulk=2)
    assert ranks(queue, 3, bulk=False) == [NORMAL]
    assert queue.pop_probe(bulk=False) is None
    assert len(queue) == 2
    probe = queue.pop_probe()
    assert probe is not None
    assert probe.rank == BULK


def test_an_urgent_envelope_that_failed_stays_urgent() -> None:
    queue = filled(stat=1, normal=2)
    tried = queue.pop_next()
    assert tried is not None
    queue.put_off(tried, 5.0)
    assert ranks(queue, 1) == [NORMAL]
    queue.wake(5.0)
    assert ranks(queue, 1) == [STAT]


@pytest.mark.parametrize("upstreams", [2, 5])
def test_an_envelope_for_several_upstreams_costs_little(upstreams: int) -> None:
    """Beside its place in each queue it has a value, which all with the same upstreams share."""
    count, names = 20_000, tuple(f"up{n}" for n in range(upstreams))
    places = {("p", one): to("http://127.0.0.1:9/api/jmix", name=one) for one in names}

    async def test() -> None:
        metrics = MetricsPage(1).row(0)
        targets = Targets(places, metrics, FAST, lambda _: None)
        backlog = Backlog(targets, metrics, added=lambda: None, left=lambda: None)
        ticket = Ticket("", "p", names, "stored", (), "", 1, 1, 1.0, "")
        found = [Found(str(uuid.uuid4()), ticket, names) for _ in range(count)]
        tracemalloc.start()
        backlog.add(found, maybe_stored=True)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < (300 + 20 * upstreams) * count
        assert [len(one.queue) for one in targets] == [count] * upstreams
        for target in targets:
            await target.client.close()

    run(test)
