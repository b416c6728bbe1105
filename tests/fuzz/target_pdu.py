"""Any split of any stream gives the events of the whole, reads only what has arrived, and ends.

A stream goes through a lane: `reserve`, `commit`, `scan`, `route`, and its packer takes the members
out at the other end. What the scanner says and what the packer gets is compared with the slow twin
(reference.messages), which sees the stream in one piece. Under AddressSanitizer the memory of the
lane that holds nothing is poisoned while the scanner scans.

An input is: byte 0, how many splits (low 4 bits) and how late the packer is (next 2 bits); the
splits; where filler is inserted, and how much of it (two 16-bit numbers, the second times 4);
the stream. Filler makes instances larger than the lane cheap to write down.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from itertools import zip_longest
from typing import Any, Final

from isal.isal_zlib import crc32

from fastjmix import _core
from fastjmix._core import Intake, Lanes, PdvScanner
from tests import reference
from tests.fuzz.sanitizer import poison, unpoison

CAPACITY: Final = 1 << 16
"""Smaller than any that may be configured: its end is reached often."""

MAX_PDU: Final = 40_000
FILL_MAX: Final = 3 * CAPACITY
PREFIX: Final = bytes(128) + b"DICM" + b"meta"
GUARD: Final = 4096
"""Poisoned bytes behind the lane."""

_control = mmap.mmap(-1, Lanes.control_bytes(1, 2))
_clean = bytes(len(_control))
_ring = mmap.mmap(-1, CAPACITY + GUARD)
_lanes = Lanes(_control, _ring, 1, CAPACITY, 2)
poison(memoryview(_ring)[CAPACITY:])


def kind_of(context: int) -> int | None:
    """Returns what follows a command in this presentation context."""
    return (0, 1, 2, 3, -1, None, 1, 1)[context & 7]


def parse(data: bytes) -> tuple[list[int], int, bytes]:
    """Splits, lateness, stream."""
    count, late = data[0] & 15, data[0] >> 4 & 3
    splits = [s + 1 if s < 128 else (s - 127) * 512 for s in data[1 : 1 + count]] or [CAPACITY]
    at, times = struct.unpack_from("<HH", data, 1 + count)
    stream = data[5 + count :]
    return splits, late, stream[:at] + b"\x2e" * min(times * 4, FILL_MAX) + stream[at:]


class Pair:
    """Both ends of the lane."""

    def __init__(self, late: int) -> None:
        _control[:] = _clean
        self.lane = _lanes.lease(0)
        _lanes.open(self.lane, 1, 0, b"FUZZ")
        self.scanner = PdvScanner(_lanes, self.lane, MAX_PDU)
        self.intake = Intake(_lanes, 1, [None], crc32)
        self.events: list[tuple[Any, ...]] = []
        self._spilled = b""
        self._late, self._turn = late, 0
        self._waits = False
        self.over = False

    def feed(self, stream: bytes, splits: list[int]) -> None:
        """Receives the stream as the event loop does."""
        at, turn, idle = 0, 0, 0
        while not self.over and (at < len(stream) or self._stuck()):
            view = self.scanner.reserve(splits[turn % len(splits)])
            part = stream[at : at + len(view)]
            view[: len(part)] = part
            self.scanner.commit(len(part))
            at += len(part)
            turn += 1
            before = self.scanner.unscanned
            self._scan()
            self._pack(late=idle == 0)
            idle = 0 if part or self.scanner.unscanned != before else idle + 1
            assert idle < 8, f"no way on with {self.scanner.unscanned} bytes unscanned"

    def _stuck(self) -> bool:
        """Everything was received: is there still something that only time keeps?"""
        return self.scanner.blocked or self._waits

    def _scan(self) -> None:
        free = self.scanner.reserve(CAPACITY)
        poison(free)
        event = self._resume_when_granted() if self._waits else self.scanner.scan()
        while event != _core.MORE:
            unpoison(free)
            event = self._handle(event)
        unpoison(free)

    def _handle(self, event: int) -> int:
        scanner = self.scanner
        if event == _core.COMMAND:
            self.events.append(("command", scanner.context, scanner.take_command()))
            kind = kind_of(scanner.context)
            scanner.resume() if kind is None else scanner.expect_data_set(kind)
            return scanner.scan()
        if event == _core.HEAD:
            return self._head(scanner.head)
        if event == _core.LONG_HEAD:
            scanner.route(1, 0, None, PREFIX, b"1.2", b"1.2.3", b"1.2")
            return scanner.seek()
        if event == _core.BAD_HEAD:
            self.events.append(("bad head",))
            return scanner.refuse()
        if event == _core.END:
            self._waits = True
            return self._resume_when_granted()
        names = {_core.RELEASE: ("release",), _core.ABORTED: ("abort",)}
        self.events.append(names.get(event, ("broken", scanner.reason)))
        self.over = True
        return _core.MORE

    def _resume_when_granted(self) -> int:
        if not self.scanner.granted:
            return _core.MORE
        if self._waits and self.events[-1][0] != "end":
            self.events.append(("end", None))  # a refused one has no packer
        self._waits = False
        self.scanner.resume()
        return self.scanner.scan()

    def _head(self, head: Any) -> int:
        self.events.append(("head", as_dictionary(head)))
        if not head.study_instance_uid:
            return self.scanner.refuse()
        if self.scanner.late:
            self.scanner.describe(head)
        else:
            self.scanner.route(
                1, 0, head, PREFIX, head.sop_class_uid, head.sop_instance_uid, b"1.2"
            )
        return self.scanner.accept()

    def _pack(self, *, late: bool) -> None:
        self._turn += 1
        if late and self._turn % (self._late + 1):
            return
        while (report := self.intake.poll(0)) is not None:
            event, lane = report
            if event == _core.ARRIVED:
                arrival = self.intake.arrival(lane)
                member = self._spilled + b"".join(self.intake.buffers(lane))
                assert member[: len(PREFIX)] == PREFIX
                assert arrival.size == len(member)
                assert arrival.crc == zlib.crc32(member)
                self.events.append(("end", member[len(PREFIX) :]))
                self._spilled = b""
                self.intake.grant(lane, 0)
            elif event == _core.SPILL:
                self._spilled += b"".join(self.intake.buffers(lane))
                self.intake.release(lane)
            elif event == _core.FORGOTTEN:
                assert self.scanner.retracted
                self._spilled = b""
                self.intake.grant(lane, 1)
            else:
                assert event == _core.SPACE_FREED, event


def as_dictionary(head: Any) -> dict[str, Any]:
    """A Head as the slow twin shows it."""
    names = (*reference.FIELDS.values(), "length")
    return {name: getattr(head, name) for name in names}


def one(data: bytes) -> None:
    """One input."""
    if len(data) < 5 + (data[0] & 15 if data else 0):
        return
    splits, late, stream = parse(data)
    pair = Pair(late)
    pair.feed(stream, splits)
    expected = reference.messages(stream, MAX_PDU, kind_of)
    for number, (found, wanted) in enumerate(zip_longest(pair.events, expected)):
        assert found == wanted, f"event {number} is {found}, not {wanted}"
