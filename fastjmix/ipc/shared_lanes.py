"""Shares the lanes between receivers and packers, and wakes the one or the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fastjmix.ipc.lane import Passage
from fastjmix.ipc.live_lanes import LiveLanes


@dataclass(frozen=True, slots=True)
class SharedLanes:
    """The lanes, and `wake`: an eventfd for each process, receivers first, then packers."""

    passage: Passage
    wake: Sequence[int]
    receivers: int
    packers: int

    def wake_up(self, process: int) -> None:
        """Wakes that process. An eventfd that can count no further is readable already."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.wake[process], 1)

    def wake_packers(self) -> None:
        """Wakes all of them. A lane does not say which packer sleeps; waking one too many is
        harmless.
        """
        for process in range(self.receivers, len(self.wake)):
            self.wake_up(process)

    def only_look(self) -> LiveLanes:
        """Closes all but what shows the associations that lanes carry."""
        self._close_wakes()
        return LiveLanes(self.passage.only_look())

    def close(self) -> None:
        """Closes all of it, in a process that has nothing to do with lanes."""
        self.passage.close()
        self._close_wakes()

    def _close_wakes(self) -> None:
        for descriptor in self.wake:
            os.close(descriptor)
