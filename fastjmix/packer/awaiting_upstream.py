"""Keeps the instances whose C-STORE status is the upstream's answer (`ack = "uploaded"`).

Guaranteed: the lane of such an instance waits for the uploader's outcome of its envelope. An
envelope that cannot be sealed is answered with A700.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from fastjmix.dicom.dimse import Status
from fastjmix.ipc.outcome import DATAGRAM_BYTES_MAX, EnvelopeOutcome, Result
from fastjmix.packer.statuses import Statuses


class AwaitingUpstream:
    """The lanes that wait, by envelope.

    `receive` reads a datagram of the uploader, or raises BlockingIOError.
    """

    def __init__(self, statuses: Statuses, receive: Callable[[int], bytes]) -> None:
        self._statuses = statuses
        self._receive = receive
        self._lanes: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def add(self, envelope_id: str, lane: int) -> None:
        """Notes that a lane's instance gets the upstream's answer to this envelope as its
        status."""
        self._lanes[envelope_id] = lane

    def refuse(self, envelope_id: str) -> None:
        """Answers A700 to the instance of an envelope that is not uploaded, if there is one."""
        lane = self._lanes.pop(envelope_id, None)
        if lane is not None:
            self._statuses.out_of_resources(lane)

    def take_outcomes(self) -> None:
        """Reads the outcomes that have come, and gives the statuses that follow from them."""
        while True:
            try:
                outcome = EnvelopeOutcome.decode(self._receive(DATAGRAM_BYTES_MAX))
            except BlockingIOError:
                return
            lane = self._lanes.pop(outcome.envelope_id, None)
            if lane is not None:
                self._give(lane, outcome)

    def _give(self, lane: int, outcome: EnvelopeOutcome) -> None:
        comment = outcome.detail.encode("ascii", "replace")
        match outcome.result:
            case Result.DELIVERED:
                self._statuses.success(lane)
            case Result.REFUSED:
                comment = comment or b"refused by the upstream"
                self._statuses.give(lane, Status.CANNOT_UNDERSTAND, comment)
            case Result.FAILED | Result.TIMEOUT:
                self._statuses.out_of_resources(lane, comment or b"the upstream failed")
            case _:
                assert_never(outcome.result)
