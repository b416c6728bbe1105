"""The status each second: a bounded number of listeners, and an end for each."""

from __future__ import annotations

import contextlib
import http.client
import json
from pathlib import Path

import pytest

from fastjmix.api.admin import feed
from fastjmix.api.admin.status import Status
from fastjmix.control.client import ControlClient
from tests.support.apis import Gateway, running
from tests.support.gateway import until

PATH = "/api/node/events"


@contextlib.contextmanager
def listening(one: Gateway):  # type: ignore[no-untyped-def]
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", one.ports[0], timeout=20)
    ) as connection:
        connection.request("GET", PATH)
        yield connection.getresponse()


def event(answer: http.client.HTTPResponse) -> dict[str, object]:
    while not (line := answer.readline()).startswith(b"data: "):
        assert line, "the stream has ended"
    found: dict[str, object] = json.loads(line[6:])
    return found


def test_every_listener_gets_the_status(tmp_path: Path) -> None:
    with running(tmp_path) as one, listening(one) as first, listening(one) as second:
        assert first.headers["Content-Type"].startswith("text/event-stream")
        assert first.headers["Cache-Control"] == "private, no-store"
        assert event(first).keys() == event(second).keys() >= {"node", "envelopes", "rates"}
        times = [event(first)["node"]["now"] for _ in range(2)]  # type: ignore[index]
        assert 0.5 < times[1] - times[0] < 10


def test_there_are_so_many_listeners_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LISTENERS_MAX", 2)
    with running(tmp_path) as one:
        with listening(one) as first, listening(one) as second:
            event(first)
            event(second)
            refused = one.get(PATH)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")

        def taken() -> bool:
            with listening(one) as again:
                return bool(again.status == 200 and event(again))

        until(taken, "a listener that has gone is noticed at the next event")


def test_the_end_of_the_process_ends_the_stream(tmp_path: Path) -> None:
    with running(tmp_path) as one, listening(one) as answer:
        event(answer)
        one.stop()
        while answer.readline():
            pass


def test_head_is_no_stream(tmp_path: Path) -> None:
    with running(tmp_path) as one:
        assert one.ask("HEAD", PATH).status == 405
        assert one.ask("OPTIONS", PATH).headers["Allow"] == "GET, OPTIONS"


@pytest.mark.fault("S36")
def test_listeners_of_the_network_take_no_place_of_the_local_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LISTENERS_MAX", 1)
    with running(tmp_path) as one, listening(one) as first:
        event(first)
        assert one.get(PATH).status == 503
        assert next(ControlClient(one.spool.root).events(PATH)).keys() >= {"node"}


@pytest.mark.fault("S36")
def test_a_status_that_cannot_be_made_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that nobody will send anything must not wait for ever."""
    with running(tmp_path) as one, listening(one) as first:
        event(first)
        with monkeypatch.context() as broken:
            broken.setattr(Status, "_assembled", None)
            while first.readline():
                pass
        with listening(one) as again:
            event(again)
