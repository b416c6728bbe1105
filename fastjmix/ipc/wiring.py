"""What receivers and packers share, and nobody else: the lanes, and who wakes whom."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from fastjmix.ipc.lane import Passage


@dataclass(frozen=True, slots=True)
class Wiring:
    """`wake` holds an eventfd a process: receivers first, then packers."""

    passage: Passage
    wake: Sequence[int]
    receivers: int
    packers: int

    def wake_up(self, process: int) -> None:
        """Wakes that process; nothing is lost where its eventfd can count no further."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.wake[process], 1)

    def wake_packers(self) -> None:
        """Wakes all of them. A lane does not say which packer sleeps; waking one too many is
        harmless.
        """
        for process in range(self.receivers, len(self.wake)):
            self.wake_up(process)

    def close(self) -> None:
        """This process has nothing to do with lanes: their memory is not its to see."""
        self.passage.close()
        for descriptor in self.wake:
            os.close(descriptor)
