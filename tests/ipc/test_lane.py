"""The lanes' protocol across processes: every byte arrives once, and nobody sleeps for ever.

A producer and a consumer share a real Passage. The producer sends instances of random sizes in
random fragments, as the event loop does; both sides pause at random, doze and rouse, and are woken
only by the eventfd of whoever saw them asleep. The consumer never naps: a wake-up that is lost
stops both, and the test fails by its deadline. Each instance carries the digest of its own bytes.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
import time
import traceback
import zlib
from collections.abc import Callable

import pytest
from isal.isal_zlib import crc32

from fastjmix import _core
from fastjmix._core import Intake, PdvScanner
from fastjmix.ipc.lane import Passage
from tests.support import wire
from tests.support.nightly import by_form

LANES = 3
CAPACITY = 1 << 20
"""The smallest that may be configured. Below 256 KB it would be full before its packer is woken."""

MAX_PDU = 1 << 15
RUN_SECS = by_form(4.0, 300.0)
STUCK_SECS = 20
"""Longer than any pause of the other side, on a busy machine too."""

RECEIVER, PACKER = 0, 1


class Sleeper:
    """One side's sleep: says so, looks once more, and waits for its eventfd."""

    def __init__(self, passage: Passage, process: int, wakes: list[int]) -> None:
        self._lanes = passage.lanes
        self._process = process
        self._wake = wakes[process]
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self.slept = 0

    def sleep(self, anything: Callable[[], bool]) -> None:
        """Returns when there may be something; exits when nobody woke us."""
        self._lanes.doze(self._process)
        try:
            if anything():
                return
            self.slept += 1
            if not self._poll.poll(STUCK_SECS * 1000):
                os._exit(3)
        finally:
            self._lanes.rouse(self._process)
        os.eventfd_read(self._wake)


class Association:
    """A receiver's end of one lane, fed from a generator of messages."""

    def __init__(self, passage: Passage, lane: int, wakes: list[int], seed: int) -> None:
        self.scanner = PdvScanner(passage.lanes, lane, MAX_PDU)
        self._wakes = wakes
        self._random = random.Random(seed)
        self._stream = b""
        self.instances = 0
        self.awaiting = False

    def message(self) -> bytes:
        """An instance whose last 32 bytes are the digest of the pixels before them."""
        size = self._random.choice(
            (200, 5_000, 70_000, 600_000, 2_500_000)
        ) + 2 * self._random.randrange(250)
        pixels = self._random.randbytes(size)
        data = wire.data_set(pixels=pixels + hashlib.sha256(pixels).digest())
        sizes = [self._random.choice((90, 3_000, 20_000, 32_000)) for _ in range(900)]
        return wire.p_data(
            wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + wire.pdvs(1, data, False, sizes)
        )

    def step(self, stopping: bool) -> bool:
        """Does what can be done now. False: nothing could be."""
        scanner = self.scanner
        if self.awaiting:
            if not scanner.granted:
                return False
            assert scanner.grant()[0] == 0
            self.awaiting = False
            self.instances += 1
            scanner.resume()
        if not self._stream and not stopping and not scanner.unscanned:
            self._stream = self.message()
        part = self._stream[: self._random.randrange(1, 65_536)]
        view = scanner.reserve(len(part)) if part else memoryview(bytearray())
        if part and not view:
            scanner.request_space()
            if scanner.stalled:
                return False
        if view:
            view[:] = part[: len(view)]
            scanner.commit(len(view))
            self._stream = self._stream[len(view) :]
        before = scanner.unscanned
        self._handle(scanner.scan())
        if scanner.wake:
            scanner.wake = False
            os.eventfd_write(self._wakes[PACKER], 1)
        if scanner.blocked or scanner.stalled:
            scanner.request_space()
        return bool(view) or scanner.unscanned != before or self.may_go_on()

    def _handle(self, event: int) -> None:
        scanner = self.scanner
        while event != _core.MORE:
            if event == _core.COMMAND:
                scanner.take_command()
                scanner.expect_data_set(1)
                event = scanner.scan()
            elif event == _core.HEAD:
                head = scanner.head
                scanner.route(PACKER, 0, head, b"P", b"1", b"2", b"3")
                event = scanner.accept()
            elif event == _core.END:
                self.awaiting = True
                return
            else:
                os._exit(4)

    def may_go_on(self) -> bool:
        """Asked after saying that we sleep."""
        return self.scanner.granted if self.awaiting else not self.scanner.stalled

    @property
    def idle(self) -> bool:
        """Nothing is in flight."""
        return not (self._stream or self.awaiting or self.scanner.unscanned)


def produce(passage: Passage, wakes: list[int], seed: int) -> None:
    """The receiver: as many messages as fit into RUN_SECS; writes how many."""
    lanes = [passage.lanes.lease(RECEIVER) for _ in range(LANES)]
    for lane in lanes:
        assert passage.back(lane)
        passage.lanes.open(lane, lane + 1, 0, b"STRESS")
    associations = [Association(passage, lane, wakes, seed + lane) for lane in lanes]
    sleeper = Sleeper(passage, RECEIVER, wakes)
    pause = random.Random(seed)
    end = time.monotonic() + RUN_SECS
    while True:
        stopping = time.monotonic() >= end
        if stopping and all(one.idle for one in associations):
            break
        moved = [one.step(stopping) for one in associations if not (stopping and one.idle)]
        if pause.random() < 0.05:
            time.sleep(pause.random() * 0.002)
        if not any(moved):
            waiting = [one for one in associations if not (stopping and one.idle)]
            sleeper.sleep(lambda: any(one.may_go_on() for one in waiting))  # noqa: B023
    for lane in lanes:
        passage.lanes.give_back(lane)
        passage.lanes.mark(PACKER, lane)
    os.eventfd_write(wakes[PACKER], 1)
    sent = sum(one.instances for one in associations)
    os._exit(0 if sent >= LANES and sleeper.slept else 5)


def consume(passage: Passage, wakes: list[int], seed: int) -> None:
    """The packer: verifies every instance until all associations have closed."""
    intake = Intake(passage.lanes, PACKER, [hashlib.sha256], crc32)
    spilled: dict[int, bytes] = {}
    sleeper = Sleeper(passage, PACKER, wakes)
    pause = random.Random(-seed)
    closed = taken = 0

    def handle(event: int, lane: int) -> None:
        nonlocal closed, taken
        wake = event == _core.SPACE_FREED
        if event == _core.ARRIVED:
            member = spilled.pop(lane, b"") + b"".join(intake.buffers(lane))
            announced = intake.arrival(lane)
            pixels = member[member.index(b"\xe0\x7f\x10\x00OW") + 12 :]
            if hashlib.sha256(pixels[:-32]).digest() != pixels[-32:]:
                os._exit(6)
            if announced.digest not in (None, hashlib.sha256(member).digest()):
                os._exit(7)
            if announced.spilled and announced.digest is None:
                os._exit(7)
            if announced.crc != zlib.crc32(member) or announced.size != len(member):
                os._exit(7)
            taken += 1
            wake = intake.grant(lane, 0)
        elif event == _core.SPILL:
            spilled[lane] = spilled.get(lane, b"") + b"".join(intake.buffers(lane))
            wake = intake.release(lane)
        elif event == _core.CLOSED:
            closed += 1
        elif event != _core.SPACE_FREED:
            os._exit(8)
        if wake:
            os.eventfd_write(wakes[RECEIVER], 1)

    while closed < LANES:
        report = intake.poll(pause.choice((1, 200, 20_000)))
        if report is None:
            report = _asleep(sleeper, intake)
        if report is not None:
            handle(*report)
        if pause.random() < 0.05:
            time.sleep(pause.random() * 0.002)
    os._exit(0 if taken >= LANES and sleeper.slept else 9)


def _asleep(sleeper: Sleeper, intake: Intake) -> tuple[int, int] | None:
    found: list[tuple[int, int]] = []

    def look() -> bool:
        report = intake.poll(1)
        if report is not None:
            found.append(report)
        return report is not None

    sleeper.sleep(look)
    return found[0] if found else None


def spawn(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(2)
    return child


@pytest.mark.timeout(by_form(120, 900))
@pytest.mark.parametrize("seed", by_form([1, 2], [1, 2, 3, 4]))
def test_every_byte_crosses_once_and_nobody_sleeps_for_ever(seed: int) -> None:
    passage = Passage(LANES, CAPACITY, 2)
    wakes = [os.eventfd(0) for _ in range(2)]
    children = {
        spawn(lambda: produce(passage, wakes, seed)): "producer",
        spawn(lambda: consume(passage, wakes, seed)): "consumer",
    }
    failed = {}
    try:
        while children:
            child, status = os.wait()
            name = children.pop(child)
            if os.waitstatus_to_exitcode(status):
                failed[name] = os.waitstatus_to_exitcode(status)
                break
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for wake in wakes:
            os.close(wake)
    assert not failed, "3 = never woken, 6 and 7 = other bytes; see the exits in the file"
