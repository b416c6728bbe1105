"""Actions that a person asks a running uploader for."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fastjmix.ipc.actions import DONE, Kind
from fastjmix.spool.holds import Holds
from fastjmix.spool.part import Split, note_split
from fastjmix.uploader import actions
from fastjmix.uploader.retry import Backoff
from tests.support.nodes import FAST, node, run, to, until
from tests.support.upstreams import Seen, Upstream, answer, script

LONG = 3600.0
"""Seconds that no test waits: what goes on before they are over was asked for."""


def test_an_envelope_on_hold_is_sent_when_it_is_released(tmp_path: Path) -> None:
    async def test() -> None:
        slow = replace(FAST, hold_secs=LONG)
        async with (
            Upstream(script(401)).open() as store,
            node(tmp_path, to(store.url), slow) as one,
        ):
            held = one.seal()
            await one.logged("upload_retry")
            assert await one.ask(Kind.HOLD, held, why="under enquiry") == {held: DONE}
            hold = Holds(one.spool).get(held)
            assert hold is not None
            assert (hold.by, hold.why) == ("a test", "under enquiry")
            assert (await one.ask(Kind.HOLD, held))[held].startswith("it is on hold already")
            assert await one.ask(Kind.RETRY, held) == {held: "it is on hold: release it"}

        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            other = one.seal()
            assert await one.left() == [("sent", other)]
            assert one.spool.path("outbox", held).exists()
            (row,) = one.channels.board.read("uploader")["upstreams"]
            await until(lambda: one.channels.board.read("uploader")["upstreams"][0]["held"] == 1)
            assert row["state"] == "available"
            assert await one.ask(Kind.RELEASE, held) == {held: DONE}
            assert await one.left(2) == [("sent", other), ("sent", held)]
            assert await one.ask(Kind.RELEASE, held) == {held: actions.NOT_HELD}

    run(test)


def test_a_hold_that_a_person_deletes_by_hand_is_over(tmp_path: Path) -> None:
    async def test() -> None:
        often = replace(FAST, rescan_secs=0.05)
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url), often, start=False) as one,
        ):
            held = one.seal()
            Holds(one.spool).put(held, "a test", "")
            one.start()
            await until(lambda: _held(one.channels.board.read("uploader")) == 1)
            (one.spool.outbox / f"{held}.hold").unlink()
            assert await one.left() == [("sent", held)]

    run(test)


def test_retry_lifts_the_back_off_of_an_envelope(tmp_path: Path) -> None:
    async def test() -> None:
        slow = replace(FAST, backoff=Backoff(base=LONG, cap=LONG))
        async with (
            Upstream(script(503)).open() as store,
            node(tmp_path, to(store.url), slow) as one,
        ):
            waiting = one.seal()
            await one.logged("upload_retry")
            assert await one.ask(Kind.RETRY, waiting) == {waiting: DONE}
            assert await one.left() == [("sent", waiting)]

    run(test)


def test_retry_lifts_the_hold_of_an_upstream_for_all_that_wait(tmp_path: Path) -> None:
    async def test() -> None:
        slow = replace(FAST, hold_secs=LONG)
        async with (
            Upstream(script(401)).open() as store,
            node(tmp_path, to(store.url), slow) as one,
        ):
            first = one.seal()
            await one.logged("upstream_held")
            await until(lambda: _row(one.channels.board.read("uploader"))["state"] == "held")
            row = _row(one.channels.board.read("uploader"))
            assert row["last_answer"]["status"] == 401
            assert "credentials" in row["reason"]
            rest = [one.seal() for _ in range(20)]
            await until(lambda: one.page.total("outbox_envelopes") == 21)
            assert set((await one.ask(Kind.RETRY, first)).values()) == {DONE}
            assert len(await one.left(21)) == 21
            assert {name for _, name in one.spool.moves} == {first, *rest}

    run(test)


def test_a_rejected_envelope_is_sent_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            Upstream(script(400)).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            refused = one.seal()
            assert await one.left() == [("rejected", refused)]
            assert await one.ask(Kind.REQUEUE, refused) == {refused: DONE}
            assert (await one.left(2))[1] == ("sent", refused)
            assert one.ticket("sent", refused).refusal is None
            assert not list(one.spool.rejected.iterdir())
            events = [event for event in one.events.read() if event["kind"] == "action"]
            assert [(e["action"], e["envelopes"]) for e in events] == [("requeue", [refused])]

    run(test)


def test_a_split_is_read_from_the_files(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            Upstream(script(400)).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            whole, part = one.seal(), str(uuid.uuid4())
            assert await one.left() == [("rejected", whole)]
            assert await one.ask(Kind.NOTE_SPLIT, whole, part) == {
                whole: actions.NOT_SPLIT, part: actions.NOT_REJECTED,
            }  # fmt: skip
            note_split(one.spool, whole, Split((part,), "a test", 7.0))
            one.events.read()
            assert await one.ask(Kind.NOTE_SPLIT, whole) == {whole: DONE}
            events = [(event["kind"], event["envelope"]) for event in one.events.read()]
            assert events == [("changed", whole), ("changed", part)]

    run(test)


def test_each_envelope_has_a_result_of_its_own(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, to("http://127.0.0.1:1/api/jmix")) as one:
            here, absent = one.seal(), str(uuid.uuid4())
            await one.logged("upload_retry")
            found = await one.ask(Kind.HOLD, here, absent, "../../etc/passwd")
            assert found == {here: DONE, absent: actions.ABSENT, "../../etc/passwd": "no id"}
            assert await one.ask(Kind.REQUEUE, here) == {here: actions.NOT_REJECTED}

    run(test)


def test_an_envelope_that_is_sent_now_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        begun = asyncio.Event()
        go_on = asyncio.Event()

        async def slow(_: web.BaseRequest, __: Seen) -> web.StreamResponse:
            begun.set()
            await go_on.wait()
            return answer(201)

        async with Upstream(slow).open() as store, node(tmp_path, to(store.url)) as one:
            busy = one.seal()
            await begun.wait()
            for kind in (Kind.HOLD, Kind.RETRY):
                assert await one.ask(kind, busy) == {busy: actions.BUSY}
            go_on.set()
            assert await one.left() == [("sent", busy)]

    run(test)


def test_a_datagram_that_is_no_request_is_logged_and_passed_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with node(tmp_path, to("http://127.0.0.1:1/api/jmix")) as one:
            one.asking.send(b"no request")
            await one.logged("action_unreadable")
            assert await one.ask(Kind.RETRY, absent := str(uuid.uuid4())) == {
                absent: actions.ABSENT
            }

    run(test)


def test_a_fault_of_ours_concerns_one_envelope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with (
            Upstream(script(400, 400)).open() as store,
            node(tmp_path, to(store.url)) as one,
        ):
            first, second = one.seal(), one.seal()
            await one.left(2)
            real = one.spool.requeue

            def faulty(envelope_id: str, only: str | None) -> None:
                if envelope_id == first:
                    raise RuntimeError("a fault")
                real(envelope_id, only)

            monkeypatch.setattr(one.spool, "requeue", faulty)
            found = await one.ask(Kind.REQUEUE, first, second)
            assert found == {first: "a fault of fastjmix: see its log", second: DONE}
            assert (await one.left(3))[2] == ("sent", second)

    run(test)


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"\xff", b'{"since": "x"}'])
def test_a_damaged_hold_is_a_hold(tmp_path: Path, text: bytes) -> None:
    async def test() -> None:
        async with (
            Upstream().open() as store,
            node(tmp_path, to(store.url), start=False) as one,
        ):
            held = one.seal()
            (one.spool.outbox / f"{held}.hold").write_bytes(text)
            assert Holds(one.spool).get(held) is not None
            one.start()
            await until(lambda: _held(one.channels.board.read("uploader")) == 1)
            assert await one.ask(Kind.RELEASE, held) == {held: DONE}
            assert await one.left() == [("sent", held)]

    run(test)


def _row(state: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = state["upstreams"][0] if state else {}
    return row


def _held(state: dict[str, Any]) -> Any:
    return _row(state).get("held")
