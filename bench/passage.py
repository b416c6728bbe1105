"""A receiver's and a packer's end of one lane in this process, for the suites of the parts."""

from __future__ import annotations

from typing import Final

from isal.isal_zlib import crc32

from bench.sender import message
from bench.study import EXPLICIT, Study
from fastjmix import _core
from fastjmix._core import Arrival, Intake, PdvScanner
from fastjmix.ipc.lane import Passage

PREFIX: Final = b"\0" * 128 + b"DICM" + bytes(16)
MAX_PDU: Final = 131072
CAPACITY: Final = 8 << 20
READ: Final = 262144
"""Bytes given to the scanner at once, as a read(2) of a busy socket gives them."""


def stream(study: Study, pdu: int = MAX_PDU) -> bytes:
    """All that a sender writes for the instances of a study."""
    return b"".join(
        bytes(part)  # type: ignore[call-overload]
        for index in range(study.instances)
        for part in message(study, index, index, pdu)
    )


class OneLane:
    """`feed` is the receiver's side and the packer's, one after the other."""

    def __init__(self) -> None:
        self.passage = Passage(2, CAPACITY, 2)
        lanes = self.passage.lanes
        lane = lanes.lease(0)
        assert self.passage.back(lane)
        lanes.open(lane, 1, 0, b"BENCH")
        self.scanner = PdvScanner(lanes, lane, MAX_PDU)
        self.intake = Intake(lanes, 1, [None], crc32)
        self.arrivals: list[Arrival] = []
        self._request: _core.Command | None = None

    def feed(self, data: bytes) -> list[Arrival]:
        """Returns what arrived, of a stream that holds whole instances."""
        self.arrivals = []
        left = memoryview(data)
        while left or self.scanner.unscanned:
            if left:
                view = self.scanner.reserve(READ)
                part = left[: len(view)]
                view[: len(part)] = part
                self.scanner.commit(len(part))
                left = left[len(part) :]
            self._scan()
            self._pack()
            if self.scanner.granted:
                self.scanner.grant()
                self.scanner.resume()
        return self.arrivals

    def _scan(self) -> None:
        scanner = self.scanner
        while (event := scanner.scan()) != _core.MORE:
            if event == _core.COMMAND:
                self._request = _core.parse_command(scanner.take_command())
                scanner.expect_data_set(1)
            elif event == _core.HEAD:
                head, request = scanner.head, self._request
                assert request is not None
                scanner.route(
                    1, 0, head, PREFIX,
                    request.sop_class_uid, request.sop_instance_uid, EXPLICIT.encode(),
                )  # fmt: skip
                if scanner.accept() == _core.END:
                    return
            elif event == _core.END:
                return
            else:
                raise AssertionError(f"the scanner reports {event}: {scanner.problem}")

    def _pack(self) -> None:
        while (report := self.intake.poll(0)) is not None:
            event, lane = report
            assert event == _core.ARRIVED
            self.arrivals.append(self.intake.arrival(lane))
            self.intake.grant(lane, 0)


__all__ = ["CAPACITY", "MAX_PDU", "PREFIX", "OneLane", "stream"]
