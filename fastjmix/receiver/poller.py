"""Waits for sockets and packers: spins for a moment, then sleeps (ARCHITECTURE.md, "Waking").

Guaranteed: an idle receiver uses no processor. A packer that gives a status or makes room after
this process has said that it sleeps (`Lanes.doze`) wakes it.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Collection
from typing import Final

from fastjmix._core import Lanes, PdvScanner, await_grants

GRANT_TURNS: Final = 400
"""Looks at the waiting lanes before the sockets are asked again; about 20 µs."""

SPIN_SECS: Final = 0.0005
"""After the last event: how long to look for the next without sleeping. Longer than a response's
way to the sender and back, shorter than a disk's fdatasync(2): 2 ms were no quicker, and spent in
vain for each image that waited for the disk (bench/PROFILES.md, P6: the receiver's processor)."""

ALONE_SECS: Final = 0.05
"""The receiver spins only after one association has been the only busy one for this long. With
several the others' work fills the wait, and a receiver that spins takes the processor from the
senders and packers: 4 storescu on two cores take up to 1.2 times as long (ARCHITECTURE.md,
"Waking")."""


class Poller:
    """The waits of one receiver. `number` is its process number; `epoll` watches its sockets; `now`
    is when the last wait was over, in monotonic seconds."""

    def __init__(self, lanes: Lanes, number: int) -> None:
        self.epoll = select.epoll()
        self._lanes = lanes
        self._number = number
        self.now = self._last_event = 0.0
        self._shared_at = 0.0

    def note_company(self) -> None:
        """Notes that more than one association is busy: no spinning for ALONE_SECS."""
        self._shared_at = self._last_event

    def idle(self, secs: float) -> list[tuple[int, int]]:
        """Returns the events of the sockets when there are some, without spinning. -1: no limit."""
        events = self.epoll.poll(secs)
        self.now = time.monotonic()
        return events

    def wait(
        self,
        awaiting_status: Collection[PdvScanner],
        is_ready: Callable[[], bool],
        until: float,
    ) -> list[tuple[int, int]]:
        """Returns the events of the sockets; none when a packer has given a status, when `is_ready`
        says that something can be done, or when it is `until`.
        """
        alone = self._last_event - self._shared_at >= ALONE_SECS
        if awaiting_status and alone and await_grants([*awaiting_status], GRANT_TURNS) >= 0:
            self.now = self._last_event = time.monotonic()
            return []
        events = self.epoll.poll(0)
        self.now = now = time.monotonic()
        if events:
            self._last_event = now
            return events
        if alone and now - self._last_event < SPIN_SECS:
            os.sched_yield()
            return []
        self._lanes.doze(self._number)
        try:
            if is_ready():
                return []
            events = self.epoll.poll(max(until - now, 0))
        finally:
            self._lanes.rouse(self._number)
        self.now = self._last_event = time.monotonic()
        return events
