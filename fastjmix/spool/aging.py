"""Finds delivered envelopes that are too old, where upstreams have a retention of their own.

Wanted: an envelope is kept until the longest retention of its upstreams has passed.
Guaranteed: no ticket is read before the shortest retention of all has passed since the delivery.
Its facts are remembered (READ_MAX) until the next listing no longer finds the envelope. A ticket
that cannot be read counts as one for an upstream without a retention of its own.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix.errors import DamagedTicket
from fastjmix.spool.ticket import Ticket

SOON_MAX: Final = 10_000
"""Envelopes that are remembered: those that are too old first. Behind them sent/ is listed again.
"""

READ_MAX: Final = 100_000
"""Retentions that are remembered: 12 MB, twice that while sent/ is listed. Other tickets are read
again at each listing."""

Upstream = tuple[str, str]
"""The names of a pipeline and of an upstream."""


class Kept(NamedTuple):
    """An envelope in sent/: when it was delivered (Unix seconds), its bytes, its id."""

    delivered: float
    size: int
    id: str


class Aging:
    """The times at which the envelopes in `sent` are too old, but never within `spared_secs`.

    A listing calls `begin`, `add` for each envelope, and `end`. One thread at a time may use it.
    """

    def __init__(self, sent: Path, spared_secs: float) -> None:
        self._sent = sent
        self._spared_secs = spared_secs
        self._node_secs = math.inf
        self._shortest_secs = math.inf
        self._own: dict[Upstream, float] = {}
        self._soon: list[tuple[float, Kept]] = []
        self._complete = False
        self._read: dict[str, float] = {}
        self._read_before: dict[str, float] = {}

    def configure(self, node_secs: float | None, own: Mapping[Upstream, float]) -> None:
        """Replaces the retentions, in seconds: the node's, and those that upstreams have."""
        secs = math.inf if node_secs is None else node_secs
        if (secs, own) != (self._node_secs, self._own):
            self._node_secs, self._own = secs, dict(own)
            self._shortest_secs = min(secs, *own.values()) if own else secs
            self._soon, self._complete = [], False
            self._read, self._read_before = {}, {}

    @property
    def active(self) -> bool:
        """True when an upstream has a retention of its own. Else there is nothing to call."""
        return bool(self._own)

    @property
    def exhausted(self) -> bool:
        """True when there may be more in sent/ than is known."""
        return self.active and not self._complete and not self._soon

    @property
    def next_at(self) -> float:
        """When to call `take` (Unix seconds); infinity: there is nothing to wait for."""
        return self._soon[0][0] if self._soon else math.inf

    # -- listing -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Begins a listing."""
        self._soon, self._complete = [], True
        self._read_before, self._read = self._read, {}

    def add(self, one: Kept, now: float) -> None:
        """Notes an envelope."""
        due = self._due(one, now)
        if math.isinf(due):
            return
        self._soon.append((due, one))
        if len(self._soon) >= 2 * SOON_MAX:
            self._shorten()

    def end(self) -> None:
        """Ends a listing."""
        self._shorten()  # sorted, and so a heap
        self._read_before = {}

    def _shorten(self) -> None:
        self._complete = self._complete and len(self._soon) <= SOON_MAX
        self._soon = heapq.nsmallest(SOON_MAX, self._soon)

    # -- between listings --------------------------------------------------------------------------

    def arrived(self, one: Kept, now: float) -> None:
        """Notes an envelope that came after the listing."""
        due = self._due(one, now)
        if math.isinf(due):
            return
        if len(self._soon) < SOON_MAX:
            heapq.heappush(self._soon, (due, one))
        else:
            self._complete = False

    def take(self, now: float) -> Kept | None:
        """Returns an envelope that is too old, and forgets it; None: there is none."""
        while self._soon and self._soon[0][0] < now:
            one = heapq.heappop(self._soon)[1]
            due = self._due(one, now)
            if due < now:
                return one
            if not math.isinf(due):
                heapq.heappush(self._soon, (due, one))
        return None

    def _due(self, one: Kept, now: float) -> float:
        """Returns when an envelope is too old; while it is young, when it is at the earliest."""
        secs = self._read.get(one.id, self._read_before.get(one.id))
        if secs is None:
            earliest = one.delivered + max(self._shortest_secs, self._spared_secs)
            if earliest >= now:
                return earliest
            secs = self._longest(one.id)
        if len(self._read) < READ_MAX:
            self._read[one.id] = secs
        return one.delivered + max(secs, self._spared_secs)

    def _longest(self, envelope_id: str) -> float:
        """Returns the longest retention of an envelope's upstreams, in seconds."""
        try:
            ticket = Ticket.read(self._sent / f"{envelope_id}.json", envelope_id)
        except (OSError, DamagedTicket):
            return self._node_secs
        places = ((ticket.pipeline, name) for name in ticket.upstreams)
        return max(self._own.get(place, self._node_secs) for place in places)
