"""Gives instances their C-STORE statuses, by way of their lanes.

Guaranteed: an instance gets one status, and the receiver that waits for it is woken.
"""

from __future__ import annotations

import os

from fastjmix._core import Intake
from fastjmix.dicom.dimse import MEANING, Status
from fastjmix.ipc.shared_lanes import SharedLanes


class Statuses:
    """The statuses of the instances of one packer."""

    def __init__(self, intake: Intake, shared_lanes: SharedLanes) -> None:
        self._intake = intake
        self._wake = shared_lanes.wake

    def give(self, lane: int, status: int, comment: bytes = b"") -> None:
        """Gives a lane's instance its status; its lane is free for the next one.

        Raises ValueError when it has a status.
        """
        if self._intake.grant(lane, status, comment):
            self.wake_receiver(lane)

    def success(self, lane: int) -> None:
        """Gives 0000: the instance is stored as its rules promise."""
        self.give(lane, Status.SUCCESS)

    def out_of_resources(self, lane: int, comment: bytes = b"") -> None:
        """Gives A700: the instance may be sent again."""
        meaning = MEANING[Status.OUT_OF_RESOURCES].encode()
        self.give(lane, Status.OUT_OF_RESOURCES, comment or meaning)

    def internal_error(self, lane: int) -> None:
        """Gives C0FF: a fault of this program."""
        self.give(lane, Status.INTERNAL, MEANING[Status.INTERNAL].encode())

    def release(self, lane: int) -> None:
        """Releases the bytes of a lane that were written away: more of its instance can come."""
        if self._intake.release(lane):
            self.wake_receiver(lane)

    def wake_receiver(self, lane: int) -> None:
        """Wakes the receiver of a lane."""
        owner = self._intake.owner(lane)
        if owner >= 0:
            os.eventfd_write(self._wake[owner], 1)
