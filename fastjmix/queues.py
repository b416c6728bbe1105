"""What waits for an upstream, in the order in which it is to go.

Wanted: oldest first; an envelope for whose outcome a process waits before those that were promised;
100,000 that wait in a few megabytes.
Guaranteed: an envelope stands in one queue, or runs. One that was never tried costs its key and two
places for it, about 100 bytes; one that was tried, about 300. Nothing here does I/O or asks for the
time.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import uuid
from collections import deque
from dataclasses import dataclass, field

from fastjmix.config import Upstream
from fastjmix.courier import Courier
from fastjmix.delivery import Gate

Key = int | str
"""An envelope's name as this process keeps it: a UUID as a number (48 bytes instead of 96)."""


def key_of(name: str) -> Key:
    """The key of a file's name in outbox/. What is not an id in its usual form stays text."""
    with contextlib.suppress(ValueError):
        number = int(name.replace("-", ""), 16)
        if name_of(number) == name:
            return number
    return name


def name_of(key: Key) -> str:
    """The name again. Raises ValueError for a number that is no UUID."""
    return key if isinstance(key, str) else str(uuid.UUID(int=key))


@dataclass(slots=True)
class Waiting:
    """An envelope in outbox/ that was tried, or that somebody waits for.

    `order` rises with age. `doubtful`: an earlier attempt may have stored it upstream without our
    knowing; true of every envelope found at start, since a ticket cannot prove the contrary.
    `origin` names the process that waits for the outcome; None: nobody does, for it was promised.
    `problem` is what the disk said last, and the log, too.
    """

    key: Key
    order: int
    doubtful: bool
    origin: str | None = None
    attempts: int = 0
    failures: int = 0
    told: bool = False
    problem: str = ""

    @property
    def id(self) -> str:
        """The envelope's id."""
        return name_of(self.key)

    @property
    def awaited(self) -> bool:
        """True when a process waits for the outcome, and nothing has been promised."""
        return self.origin is not None


@dataclass(slots=True)
class Target:
    """One upstream: its courier, its gate, and its queues.

    `fresh` was never tried, and is younger than all that was: the first `found` of it were there at
    the start. The others are heaps of (order or time, …, envelope).
    """

    upstream: Upstream
    courier: Courier
    gate: Gate
    fresh: deque[Key] = field(default_factory=deque)
    found: int = 0
    awaited: list[tuple[int, Waiting]] = field(default_factory=list)
    again: list[tuple[int, Waiting]] = field(default_factory=list)
    later: list[tuple[float, int, Waiting]] = field(default_factory=list)
    running: dict[asyncio.Task[None], Waiting] = field(default_factory=dict)
    _orders: int = 0

    def take_in(self, key: Key, origin: str | None, *, doubtful: bool) -> None:
        """An envelope that was not known, younger than those before it."""
        if origin is None:
            self.found += doubtful
            self.fresh.append(key)
        else:
            self.put(Waiting(key, self._next_order(), doubtful, origin))

    def put(self, item: Waiting) -> None:
        """Into the queue of those that may go now."""
        heapq.heappush(self.awaited if item.awaited else self.again, (item.order, item))

    def put_off(self, item: Waiting, when: float) -> None:
        """Into the queue of those that may go at `when`."""
        heapq.heappush(self.later, (when, item.order, item))

    def wake(self, now: float) -> None:
        """Those whose time has come may go now."""
        while self.later and self.later[0][0] <= now:
            self.put(heapq.heappop(self.later)[2])

    @property
    def ready(self) -> bool:
        """True when one that nobody waits for may go now."""
        return bool(self.again or self.fresh)

    def oldest(self) -> Waiting:
        """Takes the oldest of those out of its queue. Raises IndexError when there is none."""
        if self.again:
            return heapq.heappop(self.again)[1]
        item = Waiting(self.fresh.popleft(), self._next_order(), self.found > 0)
        self.found = max(0, self.found - 1)
        return item

    def _next_order(self) -> int:
        self._orders += 1
        return self._orders

    def next_time(self, now: float) -> float | None:
        """When there is something to do that no event will tell of; None: never."""
        times = [self.later[0][0]] if self.later else []
        if self.ready and not self.running and self.gate.until > now:
            times.append(self.gate.until)
        return min(times, default=None)
