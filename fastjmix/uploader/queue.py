"""Keeps the envelopes that wait for one upstream, in the order in which they are to go.

Wanted: those of a higher priority first, of one priority the oldest; an envelope for whose outcome
a process waits before those that were promised; 100,000 that wait in a few megabytes.
Guaranteed: an envelope stands in one queue, or runs. One that was never tried costs its key and two
places for it, about 100 bytes; one that was tried, about 350. No priority starves: SHARE. Nothing
here does I/O or reads a clock.
"""

from __future__ import annotations

import contextlib
import heapq
import uuid
from collections import deque
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from fastjmix.config.tree import Priority
from fastjmix.uploader.retry import Backoff

RANKS: Final[tuple[Priority, ...]] = ("stat", "normal", "bulk")
"""The priorities, the highest first. The rank of a priority is its place here."""

NORMAL: Final = RANKS.index("normal")
BULK: Final = RANKS.index("bulk")

SHARE: Final = 8
"""So many envelopes of higher priorities go before one of a lower priority that waits: bulk gets
a ninth of the attempts or more, and a stat study waits for one of each other priority at most."""

Key = int | str
"""An envelope's name as this process keeps it: a UUID as a number (48 bytes instead of 96)."""


def key_of(name: str) -> Key:
    """Returns the key of a file's name in outbox/.

    A name that is not an id in its usual form stays text.
    """
    with contextlib.suppress(ValueError):
        number = int(name.replace("-", ""), 16)
        if name_of(number) == name:
            return number
    return name


def name_of(key: Key) -> str:
    """Returns the name of a key. Raises ValueError for a number that is no UUID."""
    return key if isinstance(key, str) else str(uuid.UUID(int=key))


@dataclass(slots=True)
class Waiting:
    """An envelope in outbox/ that was tried, or for which a process waits.

    Attributes:
        order: rises with age.
        maybe_stored: an earlier attempt may have stored it upstream without our knowing. True of
            every envelope found at start, since a ticket cannot prove the contrary.
        origin: the process that waits for the outcome; None for an envelope that was promised.
        attempts: bodies that were begun.
        failures: failed attempts in a row, which the back-off counts.
        reported: the process that waits has been sent the outcome.
        probes: attempts at an unavailable upstream that were answered or broken off.
        failed_at: the last failure, by the loop's clock.
        taken_at_failure: how many others the upstream had taken by then.
        own_failures: failures again although the upstream took others since the one before.
        taken_at_hold: how many others had been taken when its answer first held the upstream.
        held_since: when that was.
        problem: what the log last said about the disk and this envelope.
        rank: that of its priority.
    """

    key: Key
    order: int
    maybe_stored: bool
    origin: str | None = None
    attempts: int = 0
    failures: int = 0
    reported: bool = False
    probes: int = 0
    failed_at: float = 0.0
    taken_at_failure: int | None = None
    own_failures: int = 0
    taken_at_hold: int | None = None
    held_since: float = 0.0
    problem: str = ""
    rank: int = NORMAL

    @property
    def id(self) -> str:
        """Returns the envelope's id."""
        return name_of(self.key)

    @property
    def awaited(self) -> bool:
        """True when a process waits for the outcome, and nothing has been promised."""
        return self.origin is not None

    def forget_failures(self) -> None:
        """Forgets how earlier attempts ended: they were made at another upstream, or with other
        credentials. The envelope may have been stored by one of them all the same."""
        self.failures = self.probes = self.own_failures = 0
        self.taken_at_failure = self.taken_at_hold = None


@dataclass(slots=True)
class Line:
    """The envelopes of one priority that may go now.

    Attributes:
        fresh: envelopes that were never tried; they are younger than all that were.
        found: how many of `fresh`, at its beginning, were in outbox/ when this process started.
        again: a heap of (order, envelope) that were tried.
        passed: how many of other priorities have gone since one of these did.
    """

    fresh: deque[Key] = field(default_factory=deque)
    found: int = 0
    again: list[tuple[int, Waiting]] = field(default_factory=list)
    passed: int = 0

    def __len__(self) -> int:
        """Returns how many envelopes wait here."""
        return len(self.fresh) + len(self.again)

    def pop_fresh(self) -> tuple[Key, bool]:
        """Takes the oldest that was never tried, and returns whether it was found at the start.
        Raises IndexError for none."""
        key, found = self.fresh.popleft(), self.found > 0
        self.found = max(0, self.found - 1)
        return key, found

    def remove(self, key: Key) -> None:
        """Takes out an envelope, wherever it stands."""
        if key in self.fresh:
            self.found -= self.fresh.index(key) < self.found
            self.fresh.remove(key)
        self.again = [entry for entry in self.again if entry[-1].key != key]
        heapq.heapify(self.again)


def _lines() -> tuple[Line, ...]:
    return tuple(Line() for _ in RANKS)


@dataclass(slots=True)
class Queue:
    """The envelopes that wait for one upstream.

    Attributes:
        lines: the envelopes that may go now, by rank.
        awaited: a heap of (order, envelope) for which a process waits.
        later: a heap of (time, order, envelope) that may go at that time.
    """

    lines: tuple[Line, ...] = field(default_factory=_lines)
    awaited: list[tuple[int, Waiting]] = field(default_factory=list)
    later: list[tuple[float, int, Waiting]] = field(default_factory=list)
    _orders: Iterator[int] = field(default_factory=lambda: count(1))

    def add(self, key: Key, origin: str | None, *, maybe_stored: bool, rank: int = NORMAL) -> None:
        """Adds an envelope that was not known, younger than those before it."""
        if origin is None:
            self.lines[rank].found += maybe_stored
            self.lines[rank].fresh.append(key)
        else:
            self.put(Waiting(key, next(self._orders), maybe_stored, origin, rank=rank))

    def put(self, item: Waiting) -> None:
        """Adds an envelope that may go now."""
        again = self.lines[item.rank].again
        heapq.heappush(self.awaited if item.awaited else again, (item.order, item))

    def put_off(self, item: Waiting, when: float) -> None:
        """Adds an envelope that may go at `when`."""
        heapq.heappush(self.later, (when, item.order, item))

    def wake(self, now: float) -> None:
        """Moves envelopes whose time has come to those that may go now."""
        while self.later and self.later[0][0] <= now:
            self.put(heapq.heappop(self.later)[2])

    def pop_awaited(self) -> Waiting:
        """Takes the oldest envelope for which a process waits. Raises IndexError for none."""
        return heapq.heappop(self.awaited)[1]

    def pop_next(self, *, bulk: bool = True) -> Waiting | None:
        """Takes the envelope that goes next of those that may; None when there is none.

        It is the oldest of the highest priority, unless SHARE have passed one of a lower. `bulk`
        False: none of that priority may go now.
        """
        waiting = [rank for rank, line in enumerate(self.lines) if line and (bulk or rank < BULK)]
        if not waiting:
            return None
        passed = (rank for rank in reversed(waiting) if self.lines[rank].passed >= SHARE)
        chosen = next(passed, waiting[0])
        for rank in waiting:
            self.lines[rank].passed += 1
        line = self.lines[chosen]
        line.passed = 0
        return heapq.heappop(line.again)[1] if line.again else self._pop_fresh(chosen)

    def pop_probe(self, *, bulk: bool = True) -> Waiting | None:
        """Takes the envelope that probes an unavailable upstream, whether its time has come or not.

        It is the one with the fewest probes; of those the one with the highest priority, and of
        those the oldest. One that failed although others were taken comes last: its answer may be
        about itself.
        """
        ranks = range(len(RANKS) if bulk else BULK)
        chosen = min(
            (item for item in self._tried() if item.rank in ranks),
            key=lambda item: (item.own_failures, item.probes, item.rank, item.order),
            default=None,
        )
        fresh = next((rank for rank in ranks if self.lines[rank].fresh), None)
        if fresh is not None and (chosen is None or chosen.own_failures or chosen.probes):
            return self._pop_fresh(fresh)
        if chosen is not None:
            for line in self.lines:
                line.again = [entry for entry in line.again if entry[-1] is not chosen]
                heapq.heapify(line.again)
            self.later = [entry for entry in self.later if entry[-1] is not chosen]
            heapq.heapify(self.later)
        return chosen

    def make_due(self, backoff: Backoff) -> None:
        """Makes due what was put off, since the upstream takes envelopes again.

        An envelope that failed again although others were taken keeps a pause of its own, which
        doubles with each such failure.
        """
        later = []
        for when, order, item in self.later:
            rest = backoff.delay(item.own_failures, 1.0) if item.own_failures else 0.0
            later.append((min(when, item.failed_at + rest), order, item))
        heapq.heapify(later)
        self.later = later
        for item in self._tried():
            item.probes = 0

    def expedite(self, keys: Set[Key]) -> None:
        """Makes these envelopes due, as far as they are here and were put off."""
        chosen = [item for _, _, item in self.later if item.key in keys]
        self.later = [entry for entry in self.later if entry[-1].key not in keys]
        heapq.heapify(self.later)
        for item in chosen:
            item.failures = item.probes = item.own_failures = 0
            self.put(item)

    def remove(self, key: Key) -> None:
        """Takes out an envelope for which no process waits, wherever it stands."""
        for line in self.lines:
            line.remove(key)
        self.later = [entry for entry in self.later if entry[-1].key != key]
        heapq.heapify(self.later)

    def renew(self) -> None:
        """Makes due what was put off, and forgets how it failed: the upstream is another one."""
        tried = self._tried()
        self.later = []
        for line in self.lines:
            line.again = []
        for item in tried:
            item.forget_failures()
            self.put(item)

    def take_all(self) -> list[Key]:
        """Takes out all envelopes, those for which a process waits, too."""
        keys = [item.key for item in (*(entry[-1] for entry in self.awaited), *self._tried())]
        keys += [key for line in self.lines for key in line.fresh]
        self.lines, self.awaited, self.later = _lines(), [], []
        return keys

    def put_back(self, key: Key, rank: int = NORMAL) -> None:
        """Adds an envelope that was taken out. It may have been tried before."""
        self.put(Waiting(key, next(self._orders), maybe_stored=True, rank=rank))

    def __len__(self) -> int:
        """Returns how many envelopes wait here; some of them may have left outbox/."""
        return sum(map(len, self.lines)) + len(self.awaited) + len(self.later)

    @property
    def next_due(self) -> float | None:
        """Returns when the next of those that were put off may go; None when there is none."""
        return self.later[0][0] if self.later else None

    @property
    def has_promised(self) -> bool:
        """True when an envelope waits here, beside those for which a process waits."""
        return bool(self.later) or any(self.lines)

    def _tried(self) -> list[Waiting]:
        """Returns the envelopes that were tried, beside those for which a process waits."""
        again = [item for line in self.lines for _, item in line.again]
        return again + [item for _, _, item in self.later]

    def _pop_fresh(self, rank: int) -> Waiting:
        key, found = self.lines[rank].pop_fresh()
        return Waiting(key, next(self._orders), found, rank=rank)
