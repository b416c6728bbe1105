"""An envelope for several upstreams: each has its own queue, back-off, hold and end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix import config
from fastjmix.ipc.actions import DONE, Kind
from fastjmix.spool import State, ends
from tests.support.nodes import FAST, Node, node, run, to, until
from tests.support.upstreams import Upstream, answer, script, taken
from tests.uploader.test_process import CHILD, whole_config


def ended(one: Node, envelope_id: str) -> dict[str, str]:
    """Returns the ends of an envelope that waits, by the name of their upstream."""
    found = ends.read(one.spool, one.ticket("outbox", envelope_id))
    return {name: next(iter(end)) for name, end in found.items()}


def files(one: Node) -> list[str]:
    return sorted(path.name[36:] for path in one.spool.outbox.iterdir())


def held(one: Node) -> list[int]:
    """Returns how many envelopes are on hold for each upstream, as the page has it."""
    rows = one.channels.board.read("uploader").get("upstreams", [])
    return [row["held"] for row in rows]


@contextlib.contextmanager
def nothing_listens() -> Iterator[str]:
    """The URL of an upstream that is down."""
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken_port.getsockname()[1]}/api/jmix"


@pytest.mark.fault("F190")
def test_each_upstream_ends_by_itself(tmp_path: Path) -> None:
    """One is down, one refuses, one asks for other credentials, one takes: none delays another."""

    async def test() -> None:
        async with Upstream().open() as good, Upstream(script(400)).open() as refusing:
            closed = Upstream(lambda _, __: answer(401))
            async with closed.open():
                with nothing_listens() as url:
                    upstreams = (
                        to(url, name="down"),
                        to(refusing.url, name="refusing"),
                        to(closed.url, name="closed"),
                        to(good.url, name="good"),
                    )
                    async with node(tmp_path, upstreams) as one:
                        first = one.seal()
                        await until(lambda: len(ended(one, first)) == 2)
                        assert ended(one, first) == {"refusing": "refusal", "good": "receipt"}
                        assert one.ticket("outbox", first).receipt is None
                        others = [one.seal() for _ in range(5)]
                        await good.wait(6)
                        await refusing.wait(6)
                        await until(lambda: all(len(ended(one, x)) == 2 for x in others))
                        assert len(one.lines("upstream_held")) == 1
                        assert len(one.lines("upstream_paused")) == 1
                async with Upstream().open() as up:
                    closed.script = taken
                    async with node(tmp_path, (to(up.url, name="down"), *upstreams[1:])) as one:
                        assert {name: place for place, name in await one.left(6)} == {
                            first: "rejected",
                            **dict.fromkeys(others, "sent"),
                        }
                        kept = one.ticket("rejected", first)
                        assert {name: next(iter(end)) for name, end in kept.ends.items()} == {
                            "down": "receipt", "refusing": "refusal",
                            "closed": "receipt", "good": "receipt",
                        }  # fmt: skip
                        assert (kept.refusal or {})["upstream"] == "refusing"
                        assert len(one.ticket("sent", others[0]).ends) == 4
                        await until(lambda: files(one) == [])  # deleted behind the move
                        assert one.page.totals()["envelopes_uploaded_total"] == 5
                        assert await one.ask(Kind.REQUEUE, first) == {first: DONE}
                        assert (await one.left(7))[-1] == ("sent", first)
                        assert len(one.ticket("sent", first).ends) == 4
                    counts = [len(each.posts) for each in (up, refusing, good)]
                    assert counts == [6, 7, 6]  # only the one that had refused got it again

    run(test)


def test_a_hold_keeps_an_envelope_from_one_upstream(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream(script(503)).open() as a, Upstream(script(503)).open() as b:
            slow = replace(FAST, backoff=replace(FAST.backoff, base=0.3, cap=0.3))
            upstreams = (to(a.url, name="a"), to(b.url, name="b"))
            async with node(tmp_path, upstreams, slow) as one:
                envelope = one.seal()
                await one.logged("upload_retry", 2)
                assert await one.ask(Kind.HOLD, envelope, upstream="b") == {envelope: DONE}
                assert (await one.ask(Kind.HOLD, envelope, upstream="c")) == {
                    envelope: "it does not go to 'c'"
                }
                await until(lambda: ended(one, envelope) == {"a": "receipt"})
                assert ".1.hold" in files(one)
                refused = await one.ask(Kind.RETRY, envelope, upstream="b")
                assert refused == {envelope: "it is on hold: release it"}
            async with node(tmp_path, upstreams, slow) as one:  # the hold outlives the process
                await until(lambda: held(one) == [0, 1])
                assert await one.ask(Kind.RELEASE, envelope) == {envelope: DONE}
                assert await one.left() == [("sent", envelope)]
                assert files(one) == []
            assert (len(a.posts), len(b.posts)) == (2, 2)

    run(test)


@pytest.mark.parametrize(
    ("status", "told", "place"), [(201, "delivered", "sent"), (400, "refused", "rejected")]
)
def test_the_first_upstream_answers_the_sender(
    tmp_path: Path, status: int, told: str, place: State
) -> None:
    async def test() -> None:
        async with (
            Upstream(script(answer(status))).open() as a,
            Upstream(script(503)).open() as b,
            node(tmp_path, (to(a.url, name="a"), to(b.url, name="b"))) as one,
        ):
            envelope = one.seal(ack="uploaded")
            assert (await one.outcome())["outcome"] == told
            assert await one.left() == [(place, envelope)]
            assert len(b.posts) == (2 if place == "sent" else 0)
            kept = one.ticket(place, envelope).ends
            assert kept.keys() == ({"a", "b"} if place == "sent" else {"a"})

    run(test)


def test_a_failure_of_the_first_withdraws_what_nobody_was_promised(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            Upstream(script(503)).open() as a,
            Upstream().open() as b,
            node(tmp_path, (to(a.url, name="a"), to(b.url, name="b"))) as one,
        ):
            envelope = one.seal(ack="uploaded")
            assert (await one.outcome())["outcome"] == "failed"
            assert await one.left() == [("withdrawn", envelope)]
            assert (files(one), b.posts) == ([], [])

    run(test)


def test_a_damaged_archive_ends_for_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as a, Upstream().open() as b:
            upstreams = (to(a.url, name="a"), to(b.url, name="b"))
            async with node(tmp_path, upstreams, start=False) as one:
                envelope = one.seal()
                archive = one.spool.path("outbox", envelope)
                data = bytearray(archive.read_bytes())
                data[len(data) // 2] ^= 1
                archive.write_bytes(data)
                one.start()
                assert await one.left() == [("rejected", envelope)]
                kept = one.ticket("rejected", envelope)
                assert {name: set(end) for name, end in kept.ends.items()} == {
                    "a": {"refusal"}, "b": {"refusal"},
                }  # fmt: skip

    run(test)


def test_an_upstream_that_is_not_configured_delays_no_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with Upstream().open() as a, Upstream().open() as b:
            async with node(tmp_path, to(a.url, name="a")) as one:
                envelope = one.seal(upstreams=("a", "b"))
                (line,) = await one.logged("upstream_unknown")
                assert "upstream=b" in line
                await until(lambda: ended(one, envelope) == {"a": "receipt"})
            async with node(tmp_path, (to(a.url, name="a"), to(b.url, name="b"))) as one:
                assert await one.left() == [("sent", envelope)]
            assert (len(a.posts), len(b.posts)) == (1, 1)

    run(test)


# -- a kill at each line ---------------------------------------------------------------------------

KILLS = [
    *(f"uploader.answered:kill:{n}" for n in (1, 2, 3)),
    *(f"end.recorded:kill:{n}" for n in (1, 2)),
    *(f"spool.renamed:kill:{n}" for n in (1, 2, 3, 4)),
    "end.last:kill:1",
    "move.recorded:kill:1",
    "move.moved:kill:1",
    "end.moved:kill:1",
]


@pytest.mark.fault("F191")
@pytest.mark.parametrize("point", KILLS)
def test_a_kill_at_any_line_forgets_no_upstream(tmp_path: Path, point: str) -> None:
    """Each upstream has the envelope. Only that one gets it twice whose end was not recorded."""

    async def test() -> None:
        async with Upstream().open() as a, Upstream().open() as b, Upstream().open() as c:
            servers = {"a": a, "b": b, "c": c}
            upstreams = tuple(to(each.url, name=name) for name, each in servers.items())
            async with node(tmp_path, upstreams, start=False) as one:
                envelope = one.seal()
                assert await uploader(one, upstreams, point) == -9
                recorded = set(ended(one, envelope)) if in_outbox(one, envelope) else set(servers)
                before = Counter({name: len(each.posts) for name, each in servers.items()})
                child = asyncio.create_task(uploader(one, upstreams))
                await until(lambda: one.spool.path("sent", envelope).exists())
                await until(lambda: not files(one))
                os.eventfd_write(one.channels.stop, 1)
                assert await child == 0
                assert set(one.ticket("sent", envelope).ends) == {"a", "b", "c"}
                after = Counter({name: len(each.posts) for name, each in servers.items()})
                assert all(after[name] >= 1 for name in servers)
                assert all(after[name] == before[name] for name in recorded)
                assert max(after.values()) <= 2

    run(test)


def in_outbox(one: Node, envelope_id: str) -> bool:
    """Returns whether the envelope still waits: no record of its last end is there."""
    return not (one.spool.sent / f"{envelope_id}.json").exists()


async def uploader(one: Node, upstreams: tuple[config.Upstream, ...], point: str = "") -> int:
    """Runs the uploader's process to its end; returns its exit code."""
    settings = whole_config(one.spool.root, upstreams[0])
    listener = replace(settings.dicom[0], upstreams=upstreams)
    inherited = (one.channels.stop, one.channels.outbox_wake)
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        pass_fds=inherited,
        env={**os.environ, "FASTJMIX_FAILPOINT": point},
    )
    async with asyncio.timeout(20):
        await child.communicate(pickle.dumps((replace(settings, dicom=(listener,)), *inherited)))
        return await child.wait()
