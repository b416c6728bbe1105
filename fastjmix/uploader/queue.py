"""Keeps the envelopes that wait for an upstream, in the order in which they are to go.

Wanted: oldest first; an envelope for whose outcome a process waits before those that were promised;
100,000 that wait in a few megabytes; none that waits for an upstream which is back.
Guaranteed: an envelope stands in one queue, or runs. One that was never tried costs its key and two
places for it, about 100 bytes; one that was tried, about 350. While an upstream fails, the oldest
whose own time has come asks whether it is back; while it is held, each asks in turn, since it may
be held for one of them. When it is back, what was put off is due, but for an envelope that failed
again although others were taken meanwhile: that comes back after pauses of its own, which double.
Nothing here does I/O or asks for the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from fastjmix.config import Upstream
from fastjmix.uploader import policy
from fastjmix.uploader.client import Courier
from fastjmix.uploader.policy import Backoff, Gate, Outcome, Verdict
from fastjmix.uploader.upstream_facts import UpstreamFacts

ALONE_MIN: Final = 2
"""Times that an envelope has failed again although others were taken, and its failures pause the
upstream no more than any other envelope's: once is chance."""

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

    `probes`: how often it has asked an upstream that is away, and was answered or broken off.
    `failed_at`: when it failed last, by the loop's clock; `taken_then`: how many others had been
    taken by then. `alone`: how often it has failed again although others were taken since.
    `held_then`, `held_since`: how many had been taken when an answer to it first held the upstream,
    and when that was. `problem` is what the disk said last, and the log, too.
    """

    key: Key
    order: int
    doubtful: bool
    origin: str | None = None
    attempts: int = 0
    failures: int = 0
    told: bool = False
    probes: int = 0
    failed_at: float = 0.0
    taken_then: int | None = None
    alone: int = 0
    held_then: int | None = None
    held_since: float = 0.0
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
    """One upstream: its courier, its gate, what is known of it, and its queues.

    `fresh` holds envelopes that were never tried; they are younger than all that were. Its first
    `found` existed at the start. The other queues are heaps of (order or time, …, envelope).
    `taken` counts the envelopes that it has accepted, `held_at` is that count when it was held (or
    refused one) last.
    """

    upstream: Upstream
    courier: Courier
    gate: Gate
    facts: UpstreamFacts
    fresh: deque[Key] = field(default_factory=deque)
    found: int = 0
    awaited: list[tuple[int, Waiting]] = field(default_factory=list)
    again: list[tuple[int, Waiting]] = field(default_factory=list)
    later: list[tuple[float, int, Waiting]] = field(default_factory=list)
    running: dict[asyncio.Task[None], Waiting] = field(default_factory=dict)
    taken: int = 0
    held_at: int = -1
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

    def next_item(self) -> Waiting | None:
        """Takes the envelope that goes next, of those that nobody waits for; None: none may."""
        if self.gate.held is not None:
            return self._in_turn()
        if self.again:
            return heapq.heappop(self.again)[1]
        found = self._first_fresh()
        return self._in_turn() if found is None and not self.gate.open else found

    def _first_fresh(self) -> Waiting | None:
        if not self.fresh:
            return None
        item = Waiting(self.fresh.popleft(), self._next_order(), self.found > 0)
        self.found = max(0, self.found - 1)
        return item

    # -- an upstream that is away ------------------------------------------------------------

    def _in_turn(self) -> Waiting | None:
        """Takes the one that has asked least whether the upstream is back; of those the oldest.

        One that has failed although others were taken comes last: its answer says little.
        """
        tried = [item for _, item in self.again] + [item for _, _, item in self.later]
        chosen = min(tried, key=lambda item: (item.alone, item.probes, item.order), default=None)
        if chosen is None or ((chosen.alone or chosen.probes) and self.fresh):
            return self._first_fresh()
        self.again = [entry for entry in self.again if entry[-1] is not chosen]
        self.later = [entry for entry in self.later if entry[-1] is not chosen]
        heapq.heapify(self.again)
        heapq.heapify(self.later)
        return chosen

    def failed(self, item: Waiting, now: float, *, perhaps_its_own: bool) -> None:
        """Notes a failure. `perhaps_its_own`: the envelope may be why, and others ask before it."""
        item.failed_at = now
        if perhaps_its_own:
            item.probes += 1
            item.alone += item.taken_then is not None and self.taken > item.taken_then
            item.taken_then = self.taken

    def back(self, backoff: Backoff) -> None:
        """Makes due what was put off, each at its own time: the upstream takes envelopes again."""
        later = []
        for when, order, item in self.later:
            item.probes = 0
            rest = backoff.delay(item.alone, 1.0) if item.alone else 0.0
            later.append((min(when, item.failed_at + rest), order, item))
        heapq.heapify(later)
        self.later = later
        for _, item in self.again:
            item.probes = 0

    def weigh(
        self, item: Waiting, outcome: Outcome, taken_before: int, now: float, route_secs: float
    ) -> Outcome:
        """Judges again, knowing how others fared. `taken_before`: when the attempt began.

        An answer that holds the upstream is this envelope's own affair when the upstream has taken
        others since the first such answer. Each such finding needs an acceptance of its own: where
        good and bad answers alternate, one good one says nothing of many envelopes. It is a verdict
        when the answers have been so for `route_secs`: a roll-out takes a while.
        """
        if item.alone >= ALONE_MIN:
            outcome = replace(outcome, shared=False)
        if outcome.verdict is not Verdict.HELD or item.awaited:
            return outcome
        if item.held_then is None:
            item.held_then, item.held_since = self.taken, now
        takes_others = self.gate.held is None and taken_before > max(item.held_then, self.held_at)
        final = takes_others and now - item.held_since >= route_secs
        found = policy.weigh(outcome, takes_others=takes_others, final=final)
        if found.verdict is not Verdict.RETRY:
            self.held_at = self.taken
        return found

    def _next_order(self) -> int:
        self._orders += 1
        return self._orders

    def next_time(self, now: float) -> float | None:
        """When there is something to do that no event will tell of; None: never."""
        if self.gate.open:
            return self.later[0][0] if self.later else None
        waits = self.again or self.fresh or self.later
        return self.gate.until if waits and not self.running and self.gate.until > now else None
