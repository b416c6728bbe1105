"""The associations that lanes carry, as a process sees them that only looks."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from fastjmix import _core
from fastjmix._core import Intake, Lanes, PdvScanner
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.live_lanes import LiveLanes
from tests.core.test_core import Pair, message
from tests.support import wire


def looked_at(passage: Passage) -> tuple[LiveLanes, int]:
    """Maps the control blocks once more, as the api has them."""
    again = os.dup(passage._control_file)
    lanes = passage.lanes
    size = Lanes.control_bytes(lanes.count, lanes.processes)
    control = mmap.mmap(again, size)
    return LiveLanes(Lanes(control, None, lanes.count, lanes.capacity, lanes.processes)), again


class Slow(Pair):
    """A pair whose packer does nothing while it is `busy`."""

    busy = False

    def pack(self) -> None:
        while not self.busy and (report := self.intake.poll(0)) is not None:
            event, lane = report
            if event == _core.SPILL:
                self.intake.release(lane)
            elif event != _core.SPACE_FREED:
                self.intake.grant(lane, 0)


class Watched:
    """A pair with one association, and a look at it."""

    def __init__(self) -> None:
        self.pair = Slow()
        self.live, self._descriptor = looked_at(self.pair.passage)

    def one(self) -> Any:
        (found,) = self.live.associations()
        return found

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def watched() -> Any:
    one = Watched()
    yield one
    one.close()


def test_an_association_is_seen_with_its_facts_and_what_has_come(watched: Watched) -> None:
    pair, live = watched.pair, watched.live
    assert (live.total, live.leased, live.stalled) == (2, 1, 0)
    assert watched.one() == (pair.lane, 77, {}, 0, 0, "peer")
    lane = pair.lanes.lease(0)
    pair.lanes.open(lane, 78, 0, b"OTHER", b'{"id":"1-78"}')
    assert pair.lanes.association_facts(lane) == b'{"id":"1-78"}'
    assert live.associations()[1] == (lane, 78, {"id": "1-78"}, 0, 0, "peer")
    pair.lanes.give_back(lane)
    text = message(wire.data_set(pixels=os.urandom(5000)), [2000] * 3)
    pair.feed(text)
    pair.scanner.resume(True)
    pair.pack()
    assert watched.one()[3:] == (len(text), 1, "peer")


def test_a_whole_instance_without_a_status_waits_for_the_disk(watched: Watched) -> None:
    pair = watched.pair
    text = message(wire.data_set(pixels=os.urandom(5000)), [2000] * 3)
    pair.busy = True
    pair.feed(text)
    assert watched.one().waits_for == "disk"
    pair.busy = False
    pair.pack()
    assert watched.one().waits_for == "peer"


def test_a_full_lane_waits_for_the_packer(watched: Watched) -> None:
    pair = watched.pair
    text = message(wire.data_set(pixels=os.urandom(3 << 20)), [100_000] * 32)
    at, pair.busy = 0, True
    while not pair.scanner.stalled:
        view = pair.scanner.reserve(65536)
        view[:] = text[at : at + len(view)]
        pair.scanner.commit(len(view))
        at += len(view)
        pair.handle(pair.scanner.scan())
    pair.scanner.request_space()
    assert watched.one().waits_for == "packer"
    assert watched.live.stalled == 1
    pair.busy = False
    pair.pack()
    pair.handle(pair.scanner.scan())
    assert watched.one().waits_for == "peer"


def test_facts_and_number_belong_together_while_associations_change(watched: Watched) -> None:
    pair, over = watched.pair, threading.Event()

    def change() -> None:
        for number in range(100, 20_000):
            pair.lanes.give_back(pair.lane)
            text = b'{"id":"' + str(number).encode() * 20 + b'"}'
            pair.lanes.lease_this(pair.lane, 0)
            pair.lanes.open(pair.lane, number, 0, b"PEER", text)
        over.set()

    thread = threading.Thread(target=change)
    thread.start()
    while not over.is_set():
        for one in watched.live.associations():
            assert one.number == 77 or one.facts["id"] == str(one.number) * 20
    thread.join()


def test_lanes_without_rings_are_only_looked_at(watched: Watched) -> None:
    looking = watched.live._lanes
    assert looking is not None
    with pytest.raises(ValueError, match="only the control blocks"):
        PdvScanner(looking, 0, 1000)
    with pytest.raises(ValueError, match="only the control blocks"):
        Intake(looking, 0, [], lambda data, crc: 0)


def test_facts_that_are_too_long_are_refused(watched: Watched) -> None:
    with pytest.raises(ValueError, match="512"):
        watched.pair.lanes.open(0, 1, 0, b"", bytes(_core.ASSOCIATION_FACTS_MAX + 1))


def test_no_lanes_are_none(tmp_path: Path) -> None:
    live = LiveLanes()
    assert (live.total, live.leased, live.stalled, live.associations()) == (0, 0, 0, [])
