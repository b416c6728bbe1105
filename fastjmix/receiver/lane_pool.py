"""The lanes that one receiver holds: leased, given back, and their memory with them.

Guaranteed: a lane is given back only when no packer looks at it. Packers are notified of each lane
that is given back, because they seal a study some time after its last association. A lane that has
been free for IDLE_SECS loses its memory.
"""

from __future__ import annotations

import time

from fastjmix._core import PdvScanner
from fastjmix.ipc.lane import IDLE_SECS
from fastjmix.ipc.shared_lanes import SharedLanes


class LanePool:
    """The lanes of the receiver with this number."""

    def __init__(self, shared_lanes: SharedLanes, number: int) -> None:
        self._shared_lanes = shared_lanes
        self._passage = shared_lanes.passage
        self._lanes = shared_lanes.passage.lanes
        self._number = number
        self._freed: dict[int, float] = {}
        self._reclaimed: list[int] = []
        self._retiring: list[PdvScanner] = []

    def reclaim(self) -> None:
        """Takes over the lanes of a receiver of this number that died: what was arriving in them is
        forgotten.
        """
        self._reclaimed = self._lanes.leased_by(self._number)
        for index in self._reclaimed:
            packer = self._lanes.forget(index)
            if packer >= 0:
                self._shared_lanes.wake_up(packer)
        self._free_reclaimed()

    def _free_reclaimed(self) -> None:
        for index in [i for i in self._reclaimed if self._lanes.quiet(i)]:
            self._reclaimed.remove(index)
            self._free(index)

    def lease(self) -> int:
        """Returns a lane with memory; -1 when there is none."""
        index = self._lanes.lease(self._number)
        if index >= 0:
            self._freed.pop(index, None)
            if not self._passage.back(index):
                self._lanes.give_back(index)
                return -1
        return index

    def retire(self, scanner: PdvScanner) -> None:
        """Gives back the lane of an association that has ended, at once or (`settle`) when its
        packer has let go of the instance that was arriving.
        """
        held = scanner.abort()
        if scanner.wake:
            scanner.wake = False
            self._shared_lanes.wake_packers()
        if held:
            self._retiring.append(scanner)
        else:
            self._free(scanner.index)

    @property
    def retiring(self) -> bool:
        """True while a packer has yet to let go of a lane."""
        return bool(self._retiring)

    @property
    def can_settle(self) -> bool:
        """True when a packer has let go of a lane that is to be given back."""
        return any(scanner.granted for scanner in self._retiring)

    def settle(self) -> None:
        """Gives back the lanes that packers have let go of."""
        for scanner in [one for one in self._retiring if one.granted]:
            self._retiring.remove(scanner)
            self._free(scanner.index)

    def _free(self, index: int) -> None:
        self._lanes.give_back(index)
        self._freed[index] = time.monotonic()
        for packer in range(
            self._shared_lanes.receivers, self._shared_lanes.receivers + self._shared_lanes.packers
        ):
            if self._lanes.mark(packer, index):
                self._shared_lanes.wake_up(packer)

    @property
    def needs_tick(self) -> bool:
        """True while something here waits for time to pass."""
        return bool(self._freed or self._reclaimed)

    def tick(self, now: float) -> None:
        """Takes the memory of lanes that have been free for IDLE_SECS."""
        self._free_reclaimed()
        for index in [i for i, freed in self._freed.items() if now - freed >= IDLE_SECS]:
            del self._freed[index]
            if self._lanes.lease_this(index, self._number):
                self._passage.unback(index)
                self._lanes.give_back(index)
