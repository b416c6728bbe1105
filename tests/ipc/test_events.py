"""The pipe of events: many writers, one reader, and a reader that is away."""

from __future__ import annotations

import os
import select

from fastjmix import log
from fastjmix.ipc.events import LINE_MAX, LOST, PENDING_MAX, Event, EventReader, Events, make_pipe
from fastjmix.ipc.metrics import MetricsPage


def test_events_arrive_in_order_with_their_time() -> None:
    reading, writing = make_pipe()
    events = Events(writing)
    events.send("sealed", envelope="a")
    events.send("moved", envelope="a", state="sent")
    found = EventReader(reading).read()
    assert [(one["kind"], one["envelope"]) for one in found] == [("sealed", "a"), ("moved", "a")]
    first, second = (one["at"] for one in found)
    assert isinstance(first, float)
    assert isinstance(second, float)
    assert first <= second


def test_errors_of_the_log_are_events() -> None:
    reading, writing = make_pipe()
    logger = log.get()
    Events(writing).report_errors()
    try:
        logger.warning("disk_slow")
        logger.error("disk_gone", path="/a b", why=None)
        logger.error("odd", value="\x1b[2J")
    finally:
        logger.report_errors(lambda _: None)
    found = EventReader(reading).read()
    assert [(one["kind"], one["event"], one["text"]) for one in found] == [
        ("error", "disk_gone", 'disk_gone path="/a b"'),
        ("error", "odd", 'odd value="\\x1b[2J"'),
    ]


def test_lines_of_several_processes_never_mix() -> None:
    reading, writing = make_pipe()
    children = []
    for number in range(4):
        pid = os.fork()
        if not pid:
            events = Events(writing)
            for count in range(200):
                events.send("test", process=number, count=count, text="x" * (count * 13 % 3000))
            while events._pending:
                select.select([], [writing], [])
                events.flush()
            os._exit(0)
        children.append(pid)
    reader = EventReader(reading)
    found: list[Event] = []
    while len(found) < 800:
        found += reader.read()
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0, 0]
    for number in range(4):
        mine = [one["count"] for one in found if one["process"] == number]
        assert mine == list(range(200))


def test_a_reader_that_is_away_stops_nobody_and_what_is_lost_is_counted() -> None:
    reading, writing = make_pipe()
    page = MetricsPage(1)
    events = Events(writing, page.row(0))
    sent = 0
    while not page.total(LOST):
        events.send("test", count=sent, text="x" * 1000)
        sent += 1
    assert sent > PENDING_MAX
    reader, found = EventReader(reading), []
    while lines := reader.read():
        found += lines
        events.flush()
    assert [one["count"] for one in found] == list(range(sent - 1))


def test_a_long_text_is_shortened_and_a_long_event_is_lost() -> None:
    reading, writing = make_pipe()
    page = MetricsPage(1)
    events = Events(writing, page.row(0))
    events.send("test", text="x" * LINE_MAX)
    events.send("test", many=list(range(LINE_MAX)))
    events.send("test", text="a lone surrogate: \ud800")
    first, second = EventReader(reading).read()
    assert first["text"] == "x" * 256
    assert second["text"] == "a lone surrogate: ?"
    assert page.total(LOST) == 1


def test_a_line_that_is_no_event_is_left_out() -> None:
    reading, writing = make_pipe()
    os.write(writing, b'nothing\n[1]\n{"kind": 3}\n{"kind": "test"}\n{"kind"')
    reader = EventReader(reading)
    assert reader.read() == [{"kind": "test"}]
    os.write(writing, b': "rest"}\n')
    assert reader.read() == [{"kind": "rest"}]


def test_a_process_without_a_pipe_sends_nothing() -> None:
    Events().send("test")
