"""Keeps sent/ within its bounds by deleting the oldest delivered envelopes.

Wanted: an envelope is deleted soon after it is too old, or sent/ too large, also among 100,000. No
listing of them all delays other work.
Guaranteed: only envelopes in sent/ are deleted, and only with a record of ours that holds a
receipt. The archive is deleted before its record: a kill in between leaves a record alone, which
the successor's sweep deletes. sent/ is listed in portions (`survey`), and again only when it has
changed. The OLDEST_MAX oldest envelopes are remembered, and the size of all.
Where upstreams have retentions of their own, aging.py says which envelope is too old.
Still wrong: files that a person adds to sent/ count from the next survey on.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import stat
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.spool import names, provenance
from fastjmix.spool.aging import Aging, Kept, Upstream
from fastjmix.spool.directories import Directories
from fastjmix.spool.free_space import SENT_INODES
from fastjmix.spool.ticket import Ticket

PORTION: Final = 1000
"""Envelopes that one step lists or deletes: some ten milliseconds."""

OLDEST_MAX: Final = 10_000
"""Envelopes that are remembered: 2 MB. When all of them are deleted, sent/ is listed again."""


STUCK_SECS: Final = 3600.0
"""Seconds until an envelope that could not be deleted is tried again."""


_NONE: Final[Mapping[Upstream, float]] = MappingProxyType({})


class Trimmed(NamedTuple):
    """The result of one step of `Retention.trim`: the ids and bytes that it removed, and whether
    there is more to do."""

    ids: list[str]
    size: int
    more: bool


class Retention:
    """Bounds on sent/ in seconds and bytes; None is no bound. One thread at a time may use it, but
    any thread may call `delivered`.

    `own` are the seconds of upstreams with a retention of their own (infinity: no bound). The
    longest of an envelope's upstreams counts, `max_age_secs` where one has none.
    For `spared_secs` after its delivery an envelope is only deleted for room on the disk: others
    read its files in that time.
    """

    def __init__(
        self,
        spool: Directories,
        max_age_secs: float | None = None,
        max_bytes: int | None = None,
        *,
        own: Mapping[Upstream, float] = _NONE,
        spared_secs: float = 0.0,
    ) -> None:
        self._spool = spool
        self._sent: Path = spool.sent
        self._max_age_secs = max_age_secs
        self._max_bytes = max_bytes
        self._spared_secs = spared_secs
        self._clock = time.time() - time.monotonic()
        self._aging = Aging(self._sent, spared_secs)
        self._aging.configure(max_age_secs, own)
        self._oldest: deque[Kept] = deque()
        self._taken: set[str] = set()
        self._complete = False
        self._total = 0
        self._arrived: deque[str] = deque()
        self._changed_ns = -1
        self._stuck: dict[str, float] = {}
        self._logged = False

    def set_bounds(
        self, max_age_secs: float | None, max_bytes: int | None, own: Mapping[Upstream, float]
    ) -> None:
        """Replaces the bounds."""
        self._aging.configure(max_age_secs, own)
        self._max_age_secs, self._max_bytes = max_age_secs, max_bytes

    def delivered(self, envelope_id: str) -> None:
        """Notes that an envelope has arrived in sent/. May be called from any thread."""
        self._arrived.append(envelope_id)

    # -- listing ------------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """True when sent/ has changed since it was listed. Raises OSError."""
        return self.exhausted or self._sent.stat().st_mtime_ns != self._changed_ns

    @property
    def exhausted(self) -> bool:
        """True when there may be more in sent/ than is known."""
        return (not self._complete and not self._oldest) or self._aging.exhausted

    def survey(self) -> Iterator[None]:
        """Lists sent/, a portion at each step; the last step keeps the result. Raises OSError."""
        changed_ns = self._sent.stat().st_mtime_ns
        self._arrived.clear()  # they are in the listing
        with os.scandir(self._sent) as entries:
            ids = {
                one[0]
                for entry in entries
                if (one := names.sealed(entry.name)) is not None and one[1] == "json"
            }
        now = time.monotonic()
        self._stuck = {one: at for one, at in self._stuck.items() if now - at < STUCK_SECS}
        self._aging.begin()
        found: list[Kept] = []
        total = count = 0
        for number, envelope_id in enumerate(ids, 1):
            kept = self._find(envelope_id) if envelope_id not in self._stuck else None
            if kept is not None:
                found.append(kept)
                if self._aging.active:
                    self._aging.add(kept, self._now())
                total += kept.size
                count += 1
            if len(found) >= 2 * OLDEST_MAX:
                found = heapq.nsmallest(OLDEST_MAX, found)
            if number % PORTION == 0:
                yield
        self._aging.end()
        self._taken.clear()
        self._oldest = deque(heapq.nsmallest(OLDEST_MAX, found))
        self._complete = count == len(self._oldest)
        self._total = total
        self._changed_ns = changed_ns
        self._arrived = deque(one for one in self._arrived if one not in ids)

    def _find(self, envelope_id: str) -> Kept | None:
        with contextlib.suppress(FileNotFoundError):
            archive = (self._sent / f"{envelope_id}.zip").lstat()
            record = (self._sent / f"{envelope_id}.json").lstat()
            if stat.S_ISREG(archive.st_mode) and stat.S_ISREG(record.st_mode):
                return Kept(record.st_mtime, archive.st_size, envelope_id)
        return None

    def _add_arrived(self) -> None:
        while self._arrived:
            if (one := self._find(self._arrived.popleft())) is None:
                continue
            self._total += one.size
            if self._aging.active:
                self._aging.arrived(one, self._now())
            if self._complete and len(self._oldest) < OLDEST_MAX:
                self._oldest.append(one)
            else:
                self._complete = False

    # -- deleting ------------------------------------------------------------------------------

    @property
    def due_secs(self) -> float | None:
        """Returns the seconds until the next is to be deleted; None: never."""
        due = self._aging.next_at
        if self._oldest:
            kept_secs = math.inf
            if self._max_age_secs is not None and not self._aging.active:
                kept_secs = max(self._max_age_secs, self._spared_secs)
            if self._spared_secs and self._is_too_much:
                kept_secs = min(kept_secs, self._spared_secs)
            due = min(due, self._oldest[0].delivered + kept_secs)
        return None if math.isinf(due) else max(0.0, due - self._now())

    @property
    def _is_too_much(self) -> bool:
        return self._max_bytes is not None and self._total > self._max_bytes

    def _now(self) -> float:
        """Returns the earlier of two clocks, so that no envelope seems older than it is when one of
        them is set."""
        return min(time.time(), self._clock + time.monotonic())

    def trim(self, wanted: int = 0, inodes: int = 0) -> Trimmed:
        """Removes the oldest beyond either bound, and until `wanted` bytes and `inodes` are free.

        Looks at no more than PORTION: `more` says whether to call it again. Raises OSError.
        """
        self._add_arrived()
        removed: list[str] = []
        freed, now = 0, self._now()
        for _ in range(PORTION):
            short = freed < wanted or len(removed) * SENT_INODES < inodes
            if (one := self._take(now, short)) is None:
                return Trimmed(removed, freed, more=self.exhausted)
            self._total -= one.size
            if self._remove(one.id):
                removed.append(one.id)
                freed += one.size
            else:
                self._stuck[one.id] = time.monotonic()
        return Trimmed(removed, freed, more=True)

    def _take(self, now: float, wanted: bool) -> Kept | None:
        """Returns the next envelope to delete, and forgets it; None: there is none."""
        while (one := self._aging.take(now)) is not None:
            if one.id not in self._taken:
                self._taken.add(one.id)
                return one
        while self._oldest and self._oldest[0].id in self._taken:
            self._oldest.popleft()
        if not self._oldest:
            return None
        if not wanted:
            age = now - self._oldest[0].delivered
            is_old = self._max_age_secs is not None and age > self._max_age_secs
            is_due = self._is_too_much or (is_old and not self._aging.active)
            if age < self._spared_secs or not is_due:
                return None
        one = self._oldest.popleft()
        if self._aging.active:
            self._taken.add(one.id)
        return one

    def _remove(self, envelope_id: str) -> bool:
        """Removes an envelope. Returns False for one that is not ours or cannot be deleted."""
        record = self._sent / f"{envelope_id}.json"
        problem = "its record holds no receipt"
        try:
            if Ticket.read(record, envelope_id).receipt is not None:
                (self._sent / f"{envelope_id}.zip").unlink()
                provenance.remove(self._spool, envelope_id)
                record.unlink()
                return True
        except FileNotFoundError:
            return False
        except OSError as failure:
            problem = failure.strerror or str(failure)
        except DamagedTicket as failure:
            problem = failure.message
        if not self._logged:
            self._logged = True  # one line: each survey finds them again
            hint = "it stays in sent/ with all that are like it"
            log.get().error("expiry_failed", envelope=envelope_id, problem=problem, hint=hint)
        return False

    def run(self, wanted: int = 0, inodes: int = 0) -> list[str]:
        """Removes all that is due without a pause; returns its ids. Raises OSError."""
        removed: list[str] = []
        more = self.stale
        while True:
            if more:
                for _ in self.survey():
                    pass
            some = self.trim(wanted, inodes)
            removed += some.ids
            wanted -= some.size
            inodes -= len(some.ids) * SENT_INODES
            more = self.exhausted
            if not some.more:
                return removed
