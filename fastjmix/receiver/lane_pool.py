"""The lanes that one receiver holds: leased, given back, and their memory with them.

Guaranteed: a lane is given back only when no packer looks at it; packers are told of each end,
because they seal a study some time after its last association; a lane that was free for a while
loses its memory.
"""

from __future__ import annotations

import time

from fastjmix.ipc.lane import IDLE_SECS
from fastjmix.ipc.wiring import Wiring


class Leases:
    """Leases of the receiver with this number."""

    def __init__(self, wiring: Wiring, number: int) -> None:
        self._wiring = wiring
        self._passage = wiring.passage
        self._lanes = wiring.passage.lanes
        self._number = number
        self._freed: dict[int, float] = {}
        self._orphans: list[int] = []

    def reclaim(self) -> None:
        """Lanes of a receiver of this number that died: what was arriving is forgotten."""
        self._orphans = self._lanes.leased_by(self._number)
        for index in self._orphans:
            packer = self._lanes.forget(index)
            if packer >= 0:
                self._wiring.wake_up(packer)
        self.settle()

    def settle(self) -> None:
        """Gives back the reclaimed lanes that packers have let go of."""
        for index in [i for i in self._orphans if self._lanes.quiet(i)]:
            self._orphans.remove(index)
            self.give_back(index)

    def take(self) -> int:
        """A lane with memory; -1 when there is none to be had."""
        index = self._lanes.lease(self._number)
        if index >= 0:
            self._freed.pop(index, None)
            if not self._passage.back(index):
                self._lanes.give_back(index)
                return -1
        return index

    def give_back(self, index: int) -> None:
        """The association in this lane is over, and no packer looks at it."""
        self._lanes.give_back(index)
        self._freed[index] = time.monotonic()
        for packer in range(self._wiring.receivers, self._wiring.receivers + self._wiring.packers):
            if self._lanes.ring(packer, index):
                self._wiring.wake_up(packer)

    @property
    def busy(self) -> bool:
        """True while something here waits for time to pass."""
        return bool(self._freed or self._orphans)

    def tick(self, now: float) -> None:
        """Takes the memory of lanes that have been free for IDLE_SECS."""
        self.settle()
        for index in [i for i, freed in self._freed.items() if now - freed >= IDLE_SECS]:
            del self._freed[index]
            if self._lanes.lease_this(index, self._number):
                self._passage.unback(index)
                self._lanes.give_back(index)
