"""api/posting.py: a posted envelope is validated, put in outbox/, and answered when the upstream
has.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.api import outcomes, posting
from fastjmix.spool import Provenance
from fastjmix.tools import store
from fastjmix.uploader.loop import Uploader
from tests.support.apis import (
    BASE,
    LISTENER,
    OTHER,
    UPSTREAM,
    Answer,
    Gateway,
    in_thread,
    running,
)
from tests.support.envelopes import ID, STUDY, envelope, members, zipped


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as found:
        yield found


@pytest.fixture
def passing_on(tmp_path: Path) -> Iterator[Gateway]:
    """Makes a gateway whose listener has an upstream; the test acts as the uploader."""
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as found:
        yield found


def test_post_end_to_end(tmp_path: Path) -> None:
    """Client → API → outbox → uploader → a real store; the response comes after the store's."""
    data = envelope(ID)
    ready: queue.SimpleQueue[str] = queue.SimpleQueue()
    stopped = threading.Event()

    def serve_store() -> None:
        async def main() -> None:
            runner, port = await store.start("127.0.0.1", 0, tmp_path / "store")
            ready.put(f"http://127.0.0.1:{port}/api/jmix")
            await asyncio.to_thread(stopped.wait)
            await runner.cleanup()

        asyncio.run(main())

    with in_thread(serve_store):
        try:
            upstream = replace(UPSTREAM, url=ready.get(timeout=20))
            with running(tmp_path, replace(LISTENER, upstreams=(upstream,))) as gateway:
                outward = replace(gateway.channels, outcomes={"api": gateway.uploader_end})
                key = (LISTENER.pipeline, upstream.name)

                async def upload() -> None:
                    await Uploader({key: upstream}, gateway.spool, outward).serve()

                with in_thread(lambda: asyncio.run(upload())):
                    answer = gateway.post(data)
                    assert (answer.status, answer.json) == (201, {"id": ID, "status": "stored"})
                    assert answer.headers["Location"] == f"{BASE}/{ID}"
                    assert (tmp_path / "store" / f"{ID}.zip").read_bytes() == data
                    assert gateway.spool.ticket("sent", ID).studies == (STUDY,)
                    assert gateway.get(f"{BASE}/{ID}").body == data
                    assert gateway.post(data).status == 409
                    came = Provenance.read(gateway.spool, ID)
                    assert (came.origin, came.associations[0].peer) == ("post", "127.0.0.1")
                    assert came.study.study_instance_uid == STUDY
                    gateway.stop()
        finally:
            stopped.set()


@pytest.mark.parametrize(
    ("outcome", "status", "words"),
    [
        ({"word": "delivered", "status": 201}, 201, ()),
        ({"word": "refused", "status": 400, "detail": "bad"}, 502, ("refused", "400", "bad")),
        ({"word": "failed", "status": 503, "detail": "down"}, 502, ("failed", "503", "down")),
        ({"word": "failed", "detail": "no route"}, 502, ("reached", "no route")),
        ({"word": "timeout", "detail": "10 s"}, 504, ("timed out", "10 s")),
    ],
)
def test_outcomes(
    passing_on: Gateway, outcome: dict[str, Any], status: int, words: tuple[str, ...]
) -> None:
    with in_thread(lambda: passing_on.outcome(**outcome)):
        answer = passing_on.post(envelope(ID))
    assert answer.status == status
    for word in (*words, *(["upstream_jmix"] if words else [])):
        assert word in answer.json["error"]
    ticket = passing_on.spool.ticket("outbox", ID)
    assert (ticket.ack, ticket.origin, ticket.instances) == ("uploaded", "api", 1)
    assert (ticket.pipeline, ticket.upstreams) == ("jmix_query", ("upstream_jmix",))
    assert list(passing_on.spool.building.iterdir()) == []


def test_no_outcome_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "OUTCOME_SLACK_SECS", 0.05)
    upstream = replace(UPSTREAM, timeout_secs=0.05)
    with running(tmp_path, replace(LISTENER, upstreams=(upstream,))) as gateway:
        answer = gateway.post(envelope(ID))
        assert answer.status == 504
        assert "stays queued" in answer.json["error"]
        assert gateway.post(envelope(ID)).status == 409
        gateway.outcome("delivered")  # too late: no request waits
        assert gateway.get("/healthz").status == 200


def test_outcomes_find_their_requests(passing_on: Gateway) -> None:
    """Two wait at once; the outcomes come in the other order, with one of another id
    between them.
    """
    answers: dict[str, Answer] = {}

    def post(envelope_id: str) -> Callable[[], None]:
        def work() -> None:
            answers[envelope_id] = passing_on.post(envelope(envelope_id))

        return work

    with in_thread(post(ID)):
        os.eventfd_read(passing_on.channels.outbox_wake)
        busy = passing_on.post(envelope(ID))
        assert (busy.status, busy.headers["Retry-After"]) == (503, "1")  # its outcome is unknown
        with in_thread(post(OTHER)):
            passing_on.outcome("refused", OTHER, status=422)
        unknown = {"id": str(uuid.uuid4()), "outcome": "delivered", "status": 201, "detail": ""}
        passing_on.uploader_end.send(json.dumps(unknown).encode())
        os.eventfd_write(passing_on.channels.outbox_wake, 1)
        passing_on.outcome("delivered")
    assert (answers[ID].status, answers[OTHER].status) == (201, 502)


@pytest.mark.fault("F93")
def test_what_is_being_passed_on_is_not_here_yet(passing_on: Gateway) -> None:
    """A second POST gets no 409, before or after the first is in outbox/: the upstream may refuse
    it.
    """
    answers: list[Answer] = []
    with in_thread(lambda: answers.append(passing_on.post(envelope(ID)))):
        os.eventfd_read(passing_on.channels.outbox_wake)
        for _ in range(2):
            busy = passing_on.post(envelope(ID))
            assert (busy.status, busy.headers["Retry-After"]) == (
                503,
                str(outcomes.PASSING_ON_SECS),
            )
        os.eventfd_write(passing_on.channels.outbox_wake, 1)
        passing_on.outcome("refused", status=400)
    assert answers[0].status == 502


@pytest.mark.parametrize(
    ("body", "headers", "status", "word"),
    [
        (b"no zip", {}, 400, "not a ZIP"),
        (zipped(members(manifest={"id": None})), {}, 400, '"id"'),
        (zipped(members() | {"a/../b": b""}), {}, 400, "a/../b"),
        (b"", {}, 400, "empty"),
        (envelope(), {"Content-Type": "application/gzip"}, 415, "application/gzip"),
        (envelope(), {"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
    ],
)
def test_what_is_not_passed_on(
    passing_on: Gateway, body: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    answer = passing_on.post(body, **headers)
    assert answer.status == status
    assert word in answer.json["error"]
    assert answer.json.get("hint") != ""
    assert passing_on.spool.outbox_listing.ids() == []
    assert list(passing_on.spool.building.iterdir()) == []


def test_an_id_that_is_here_already(passing_on: Gateway) -> None:
    passing_on.put(envelope(ID))
    answer = passing_on.post(envelope(ID))
    assert (answer.status, ID in answer.json["error"]) == (409, True)
    passing_on.spool.deliver(ID, {"status": 201})
    assert passing_on.post(envelope(ID)).status == 409


def test_without_an_upstream(gateway: Gateway) -> None:
    answer = gateway.post(envelope(ID))
    assert answer.status == 501
    assert "no upstream" in answer.json["error"]


def test_a_sender_that_vanishes(passing_on: Gateway) -> None:
    head = f"POST {BASE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/zip\r\n"
    with socket.create_connection(("127.0.0.1", passing_on.ports[0])) as connection:
        connection.sendall(head.encode() + b"Content-Length: 1000000\r\n\r\n" + envelope(ID))
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass
    passing_on.stop()
    deadline = time.monotonic() + 10
    while list(passing_on.spool.building.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert passing_on.spool.outbox_listing.ids() == []


def test_a_drain_ends_what_is_in_flight(tmp_path: Path) -> None:
    answers: list[Answer] = []
    listener = replace(LISTENER, upstreams=(UPSTREAM,))
    with (
        running(tmp_path, listener) as gateway,
        in_thread(lambda: answers.append(gateway.post(envelope(ID)))),
    ):
        os.eventfd_read(gateway.channels.outbox_wake)
        gateway.stop()
        os.eventfd_write(gateway.channels.outbox_wake, 1)
        gateway.outcome("delivered")
    assert [answer.status for answer in answers] == [201]
