"""Carries C-STORE statuses from the packer to the lanes of the instances; those of the upstream
too.

Wanted: a status is given once, and whoever waits for it is woken.
Guaranteed: with `ack = "uploaded"` the lane of an instance waits for the uploader's outcome of its
envelope; an envelope that goes nowhere is a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import assert_never

from fastjmix._core import Intake
from fastjmix.dicom.dimse import MEANING, Status
from fastjmix.ipc.outcome import DATAGRAM_BYTES_MAX, EnvelopeOutcome, Result
from fastjmix.ipc.wiring import Wiring


class Statuses:
    """The statuses of one packer. `hear` reads a datagram of the uploader, or raises
    BlockingIOError.
    """

    def __init__(self, intake: Intake, wiring: Wiring, hear: Callable[[int], bytes]) -> None:
        self._intake = intake
        self._wake = wiring.wake
        self._hear = hear
        self._awaiting: dict[str, int] = {}

    def grant(self, lane: int, status: int = Status.SUCCESS, comment: bytes = b"") -> None:
        """Gives an instance its status; its lane is free for the next."""
        if self._intake.grant(lane, status, comment):
            self.wake_owner(lane)

    def refuse(self, lane: int, comment: bytes = b"") -> None:
        """Refuses with A700: the instance may be sent again."""
        meaning = MEANING[Status.OUT_OF_RESOURCES].encode()
        self.grant(lane, Status.OUT_OF_RESOURCES, comment or meaning)

    def fail(self, lane: int) -> None:
        """Fails with C0FF: a fault of this program. Raises ValueError when it has its status."""
        self.grant(lane, Status.INTERNAL, MEANING[Status.INTERNAL].encode())

    def release(self, lane: int) -> None:
        """Releases a lane whose bytes were written away: there is room in it for more of its
        instance.
        """
        if self._intake.release(lane):
            self.wake_owner(lane)

    def wake_owner(self, lane: int) -> None:
        """Wakes the receiver of a lane."""
        owner = self._intake.owner(lane)
        if owner >= 0:
            os.eventfd_write(self._wake[owner], 1)

    # -- ack = "uploaded" ------------------------------------------------------------------------

    @property
    def awaited(self) -> bool:
        """Does an instance wait for the upstream?"""
        return bool(self._awaiting)

    def await_upstream(self, envelope_id: str, lane: int) -> None:
        """Notes that the upstream's answer to the envelope is the status of this lane's
        instance."""
        self._awaiting[envelope_id] = lane

    def give_up(self, envelope_id: str) -> None:
        """Gives up: the instance's envelope is not going anywhere, and its draft is deleted."""
        lane = self._awaiting.pop(envelope_id, None)
        if lane is not None:
            self.refuse(lane)

    def take_outcomes(self) -> None:
        """Statuses of envelopes whose instance waits for the upstream's answer."""
        while True:
            try:
                outcome = EnvelopeOutcome.decode(self._hear(DATAGRAM_BYTES_MAX))
            except BlockingIOError:
                return
            lane = self._awaiting.pop(outcome.envelope_id, None)
            if lane is not None:
                self._answer(lane, outcome)

    def _answer(self, lane: int, outcome: EnvelopeOutcome) -> None:
        comment = outcome.detail.encode("ascii", "replace")
        match outcome.result:
            case Result.DELIVERED:
                self.grant(lane)
            case Result.REFUSED:
                self.grant(lane, Status.CANNOT_UNDERSTAND, comment or b"refused by the upstream")
            case Result.FAILED | Result.TIMEOUT:
                self.refuse(lane, comment or b"the upstream failed")
            case _:
                assert_never(outcome.result)
