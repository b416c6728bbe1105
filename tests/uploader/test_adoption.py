"""Another configuration while envelopes wait and are uploaded: real servers, real files."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from aiohttp import web

from fastjmix import config
from fastjmix.config import Credentials, Secret
from fastjmix.ipc.actions import Kind
from fastjmix.ipc.drain import UPLOADER, Intake
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.uploader.maintenance import StorageLimits
from fastjmix.uploader.target import Place, Targets, chosen_successors
from tests.support.nightly import by_form
from tests.support.nodes import FAST, TOKEN, Node, node, run, to, until
from tests.support.upstreams import Seen, Upstream, answer, taken
from tests.uploader.test_process import whole_config

PLACE = ("dicom_to_jmix", "store")
OLD = "a-token-that-has-expired"
ELSEWHERE = "http://127.0.0.1:9/api/jmix"
ALONE = replace(FAST, at_once=1)
SLOW = replace(FAST, backoff=replace(FAST.backoff, base=3600.0, cap=3600.0))


def bearing(token: str) -> Credentials:
    return Credentials("bearer", token=Secret(token))


def wants(token: str) -> Upstream:
    """An upstream that takes that token, and refuses every other."""

    def script(request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        given = seen.headers.get("authorization")
        return taken(request, seen) if given == f"Bearer {token}" else answer(401)

    return Upstream(script)


class Held:
    """A script that answers the first POST when `go` is set, with `first`; the others at once."""

    def __init__(self, first: int) -> None:
        self.go = asyncio.Event()
        self._first = first
        self._count = 0

    async def __call__(self, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        self._count += 1
        if self._count > 1:
            return taken(request, seen)
        await self.go.wait()
        return answer(self._first) if self._first >= 300 else taken(request, seen)


def configured(one: Node, upstreams: dict[Place, config.Upstream]) -> config.Config:
    """A configuration with these upstreams, and a listener of each pipeline."""
    whole = whole_config(one.spool.root, to(ELSEWHERE))
    listeners = (
        replace(whole.dicom[0], pipeline=pipeline, upstreams=(upstream,))
        for (pipeline, _), upstream in upstreams.items()
    )
    return replace(whole, dicom=tuple(listeners))


def adopt(one: Node, upstreams: dict[Place, config.Upstream]) -> None:
    one.uploader.adopt(configured(one, upstreams))


def waiting(one: Node) -> int:
    return len(one.spool.outbox_listing.ids())


# -- a new token, another address ------------------------------------------------------------------


def test_a_new_token_delivers_at_once_what_waited_for_it(tmp_path: Path) -> None:
    """500 wait, the upstream is held, and its next probe is an hour away."""

    async def test() -> None:
        pace = replace(FAST, hold_secs=3600.0)
        async with wants(TOKEN).open() as store:
            refused = to(store.url, credentials=bearing(OLD))
            async with node(tmp_path, refused, pace, start=False) as one:
                for _ in range(500):
                    one.seal()
                one.start()
                await one.logged("upstream_held")
                began = time.monotonic()
                adopt(one, {PLACE: replace(refused, credentials=bearing(TOKEN))})
                await one.left(500)
                assert time.monotonic() - began < by_form(20, 5)
                assert one.page.totals()["upstreams_held"] == 0
                (line,) = one.lines("upstream_changed")
                assert " keys=credentials" in line
                assert OLD not in line

    run(test)


def test_another_address_takes_what_waited_for_the_one_that_is_down(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(ELSEWHERE), SLOW) as one:
            first = one.seal()
            await one.logged("upstream_paused")
            adopt(one, {PLACE: to(store.url)})
            assert await one.left() == [("sent", first)]
            assert one.receipt(first)["url"] == store.url

    run(test)


def test_an_upload_under_way_ends_as_it_began(tmp_path: Path) -> None:
    async def test() -> None:
        held = Held(201)
        async with (
            Upstream(held).open() as old,
            Upstream().open() as new,
            node(tmp_path, to(old.url)) as one,
        ):
            first = one.seal()
            await old.wait(1)
            adopt(one, {PLACE: to(new.url)})
            second = one.seal()
            assert await one.left(1) == [("sent", second)]
            held.go.set()
            await one.left(2)
            assert one.receipt(first)["url"] == old.url
            assert one.receipt(second)["url"] == new.url
            assert len(old.posts) == len(new.posts) == 1

    run(test)


def test_an_upload_that_the_old_token_fails_goes_at_once_with_the_new_one(tmp_path: Path) -> None:
    """Its 401 holds nothing: it says nothing about the new token."""

    async def test() -> None:
        held = Held(401)
        pace = replace(FAST, hold_secs=3600.0)
        async with Upstream(held).open() as store:
            refused = to(store.url, credentials=bearing(OLD))
            async with node(tmp_path, refused, pace) as one:
                first = one.seal()
                await store.wait(1)
                adopt(one, {PLACE: replace(refused, credentials=bearing(TOKEN))})
                held.go.set()
                assert await one.left() == [("sent", first)]
                assert not one.lines("upstream_held")
                given = [post.headers["authorization"] for post in store.posts]
                assert given == [f"Bearer {OLD}", f"Bearer {TOKEN}"]

    run(test)


def test_a_drain_waits_for_an_upload_to_the_old_address(tmp_path: Path) -> None:
    async def test() -> None:
        held = Held(201)
        async with (
            Upstream(held).open() as old,
            Upstream().open() as new,
            node(tmp_path, to(old.url)) as one,
        ):
            first = one.seal()
            await old.wait(1)
            adopt(one, {PLACE: to(new.url)})
            page = one.channels.drain
            page.ask(Intake.REJECTED)
            for count in (1, 2, 3):  # outbox/ is listed for each, behind which it may answer
                one.seal()
                await one.left(count)
            assert not page.has_answered(UPLOADER)
            held.go.set()
            assert (await one.left(4))[-1] == ("sent", first)
            await until(lambda: page.has_answered(UPLOADER))

    run(test)


def test_the_connections_of_the_old_address_are_closed(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            Upstream().open() as old,
            Upstream().open() as new,
            node(tmp_path, to(old.url)) as one,
        ):
            one.seal()
            await one.left(1)
            assert old.connections == 1
            adopt(one, {PLACE: to(new.url)})
            await until(lambda: old.connections == 0)
            one.seal()
            await one.left(2)

    run(test)


def test_the_same_configuration_again_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(store.url)) as one:
            one.seal()
            await one.left(1)
            adopt(one, {PLACE: to(store.url)})
            one.seal()
            await one.left(2)
            first, second = store.posts
            assert first.peer == second.peer
            assert not one.lines("upstream_changed")

    run(test)


# -- upstreams that go and come back ---------------------------------------------------------------


def test_an_upstream_that_comes_back_takes_what_waited(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(ELSEWHERE)) as one:
            before = one.seal()
            await one.logged("upstream_paused")
            adopt(one, {})
            await one.logged("upstream_unknown")
            during = one.seal()
            await one.logged("upstream_unknown", 2)
            assert waiting(one) == 2
            assert one.page.totals()["outbox_envelopes"] == 2
            assert one.page.totals()["outbox_unrouted"] == 2
            adopt(one, {PLACE: to(store.url)})
            assert {name for _, name in await one.left(2)} == {before, during}
            assert one.page.totals()["outbox_unrouted"] == 0

    run(test)


def test_a_process_that_waits_for_an_upstream_that_was_removed_gets_a_failure(
    tmp_path: Path,
) -> None:
    """One waits in its queue when it is removed, one comes from an association that began before:
    nothing was promised of either."""

    async def test() -> None:
        held = Held(201)
        async with Upstream(held).open() as store, node(tmp_path, to(store.url), ALONE) as one:
            first = one.seal(ack="uploaded")
            await store.wait(1)
            second = one.seal(ack="uploaded")
            await until(lambda: one.page.totals()["outbox_envelopes"] == 2)
            adopt(one, {})
            assert (await one.outcome())["id"] == second
            third = one.seal(ack="uploaded")
            outcome = await one.outcome()
            assert (outcome["id"], outcome["outcome"]) == (third, "failed")
            assert "send it again" in outcome["detail"]
            held.go.set()
            assert (await one.outcome())["id"] == first
            await until(lambda: not waiting(one))

    run(test)


def test_an_upload_to_an_upstream_that_is_removed_ends_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        held = Held(503)
        async with Upstream(held).open() as store, node(tmp_path, to(store.url)) as one:
            first = one.seal()
            await store.wait(1)
            adopt(one, {})
            held.go.set()
            await one.logged("upstream_unknown")
            assert waiting(one) == 1
            adopt(one, {PLACE: to(store.url)})
            assert await one.left() == [("sent", first)]

    run(test)


def test_an_envelope_on_hold_stays_so_and_is_released_to_the_new_address(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(ELSEWHERE), SLOW) as one:
            first = one.seal()
            await one.logged("upstream_paused")
            assert await one.ask(Kind.HOLD, first) == {first: "done"}
            second = one.seal()
            adopt(one, {PLACE: to(store.url)})
            assert await one.left(1) == [("sent", second)]
            adopt(one, {})
            adopt(one, {PLACE: to(store.url)})
            await one.logged("upstream_added", 1)
            assert await one.ask(Kind.RELEASE, first) == {first: "done"}
            assert await one.left(2) == [("sent", second), ("sent", first)]

    run(test)


def test_two_upstreams_that_become_one_deliver_each_envelope_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store, node(tmp_path, to(ELSEWHERE)) as one:
            other = ("other", "store")
            adopt(one, {PLACE: to(ELSEWHERE), other: to(ELSEWHERE, timeout_secs=4.0)})
            made = {one.seal(), one.seal(pipeline="other")}
            await one.logged("upstream_paused", 2)
            adopt(one, {PLACE: to(store.url), other: to(store.url)})
            assert {name for _, name in await one.left(2)} == made
            assert len(store.posts) == 2

    run(test)


def test_one_upstream_that_becomes_two_is_told_by_the_tickets(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            Upstream().open() as here,
            Upstream().open() as there,
            node(tmp_path, to(ELSEWHERE)) as one,
        ):
            other = ("other", "store")
            adopt(one, {PLACE: to(ELSEWHERE), other: to(ELSEWHERE)})
            mine, theirs = one.seal(), one.seal(pipeline="other")
            await one.logged("upstream_paused")
            await until(lambda: one.page.totals()["outbox_envelopes"] == 2)
            adopt(one, {PLACE: to(here.url), other: to(there.url)})
            await one.left(2)
            assert one.receipt(mine)["url"] == here.url
            assert one.receipt(theirs)["url"] == there.url

    run(test)


# -- envelopes for several upstreams ---------------------------------------------------------------


def at(name: str) -> Place:
    return (PLACE[0], name)


def test_one_of_two_upstreams_goes_and_comes_back(tmp_path: Path) -> None:
    """The other one gets each envelope once, whatever becomes of the first."""

    async def test() -> None:
        async with Upstream().open() as near, Upstream().open() as far:
            kept, down = to(near.url, name="near"), to(ELSEWHERE, name="far")
            async with node(tmp_path, (kept, down)) as one:
                before = one.seal()
                await one.logged("upstream_paused")
                await near.wait(1)
                adopt(one, {at("near"): kept})
                await one.logged("upstream_unknown")
                during = one.seal()
                await near.wait(2)
                await one.logged("upstream_unknown", 2)
                assert waiting(one) == 2
                adopt(one, {at("near"): kept, at("far"): to(far.url, name="far")})
                assert set(await one.left(2)) == {("sent", before), ("sent", during)}
                assert (len(near.posts), len(far.posts)) == (2, 2)

    run(test)


def test_one_of_two_upstreams_goes_while_the_other_is_sent_to(tmp_path: Path) -> None:
    async def test() -> None:
        held = Held(201)
        async with Upstream(held).open() as near, Upstream().open() as far:
            kept, down = to(near.url, name="near"), to(ELSEWHERE, name="far")
            async with node(tmp_path, (kept, down)) as one:
                first = one.seal()
                await near.wait(1)
                await one.logged("upstream_paused")
                adopt(one, {at("near"): kept})
                await one.logged("upstream_unknown")
                adopt(one, {at("near"): kept, at("far"): to(far.url, name="far")})
                await far.wait(1)
                held.go.set()
                assert await one.left() == [("sent", first)]
                assert (len(near.posts), len(far.posts)) == (1, 1)

    run(test)


def test_a_hold_for_one_of_two_upstreams_lasts_over_another_address(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as near, Upstream().open() as far:
            kept, down = to(near.url, name="near"), to(ELSEWHERE, name="far")
            async with node(tmp_path, (kept, down), SLOW) as one:
                first = one.seal()
                await one.logged("upstream_paused")
                await near.wait(1)
                await one.logged("envelope_uploaded")
                assert await one.ask(Kind.HOLD, first, upstream="far") == {first: "done"}
                adopt(one, {at("near"): kept, at("far"): to(far.url, name="far")})
                second = one.seal()
                assert await one.left(1) == [("sent", second)]
                assert await one.ask(Kind.RELEASE, first) == {first: "done"}
                assert await one.left(2) == [("sent", second), ("sent", first)]
                assert (len(near.posts), len(far.posts)) == (2, 2)

    run(test)


# -- bounds ----------------------------------------------------------------------------------------


def test_a_shorter_retention_applies_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            limits = StorageLimits(secs=None, size=None)
            async with node(tmp_path, to(store.url), limits=limits) as one:
                sent = one.seal()
                await one.left(1)
                made = configured(one, {PLACE: to(store.url)})
                short = replace(made, runtime=replace(made.runtime, retention_secs=0.0))
                one.uploader.adopt(short)
                await until(lambda: not one.spool.path("sent", sent).exists())

    run(test)


def test_a_retention_of_an_upstream_applies_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as store:
            limits = StorageLimits(secs=None, size=None)
            async with node(tmp_path, to(store.url), limits=limits) as one:
                sent = one.seal()
                await one.left(1)
                changed = to(store.url, retention_secs=0.0)
                one.uploader.adopt(configured(one, {PLACE: changed}))
                await until(lambda: not one.spool.path("sent", sent).exists())

    run(test)


# -- which target takes over -----------------------------------------------------------------------


def chosen(
    before: dict[Place, config.Upstream], after: dict[Place, config.Upstream]
) -> set[tuple[str, str | None]]:
    """Pairs of each target's URL and its successor's."""
    made = Targets(before, MetricsPage(1).row(0), FAST, lambda _: None)
    found = chosen_successors({place: made.at(place) for place in before}, after)
    return {(one.upstream.url, None if new is None else new.url) for one, new in found.items()}


def test_the_successor_of_each_target() -> None:
    a, b, c = ("a", "store"), ("b", "store"), ("b", "another")
    u, v, w = (to(url) for url in "uvw")
    assert chosen({a: u}, {a: u}) == {("u", "u")}
    assert chosen({a: u}, {a: v}) == {("u", "v")}
    assert chosen({a: u}, {}) == {("u", None)}
    assert chosen({a: u, b: u}, {a: v, b: v}) == {("u", "v")}
    assert chosen({a: u, b: u}, {a: v, b: w}) == {("u", None)}, "its tickets say which goes where"
    assert chosen({a: u, b: v}, {a: v, b: v}) == {("u", None), ("v", "v")}
    assert chosen({a: u}, {a: u, b: v}) == {("u", None)}, "b's tickets went to a's, of that name"
    assert chosen({a: u}, {a: u, c: v}) == {("u", "u")}
