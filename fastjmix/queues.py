"""What waits for an upstream, in the order in which it is to go.

Wanted: oldest first; an envelope for whose outcome a process waits before those that were promised.
Guaranteed: an envelope stands in one queue, or runs. Nothing here does I/O or asks for the time.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field

from fastjmix.config import Upstream
from fastjmix.courier import Courier
from fastjmix.delivery import Gate
from fastjmix.spool import Ticket


@dataclass(slots=True)
class Waiting:
    """An envelope in outbox/, as this process knows it.

    `order` rises with age. `doubtful`: an earlier attempt may have stored it upstream without our
    knowing; true of every envelope found at start, since a ticket cannot prove the contrary.
    """

    id: str
    order: int
    ticket: Ticket | None
    doubtful: bool
    attempts: int = 0
    failures: int = 0
    told: bool = False

    @property
    def awaited(self) -> bool:
        """True when a process waits for the outcome, and nothing has been promised."""
        return self.ticket is not None and self.ticket.ack == "uploaded"


@dataclass(slots=True)
class Target:
    """One upstream: its courier, its gate, and three queues of (order or time, …, envelope)."""

    upstream: Upstream
    courier: Courier
    gate: Gate
    awaited: list[tuple[int, Waiting]] = field(default_factory=list)
    ready: list[tuple[int, Waiting]] = field(default_factory=list)
    later: list[tuple[float, int, Waiting]] = field(default_factory=list)
    running: dict[asyncio.Task[None], Waiting] = field(default_factory=dict)

    def put(self, item: Waiting) -> None:
        """Into the queue of those that may go now."""
        heapq.heappush(self.awaited if item.awaited else self.ready, (item.order, item))

    def put_off(self, item: Waiting, when: float) -> None:
        """Into the queue of those that may go at `when`."""
        heapq.heappush(self.later, (when, item.order, item))

    def wake(self, now: float) -> None:
        """Those whose time has come may go now."""
        while self.later and self.later[0][0] <= now:
            self.put(heapq.heappop(self.later)[2])

    def next_time(self, now: float) -> float | None:
        """When there is something to do that no event will tell of; None: never."""
        times = [self.later[0][0]] if self.later else []
        if self.ready and not self.running and self.gate.until > now:
            times.append(self.gate.until)
        return min(times, default=None)
