"""Keeps sent/ within its bounds: the oldest delivered envelopes go.

Wanted: an envelope goes soon after it is too old or too much, also among 100,000; no look at them
all is in the way of anything.
Guaranteed: only what is in sent/, with a record of ours that holds a receipt, is ever deleted. The
archive goes before its record: a record alone in sent/ is what a kill leaves of that, and the
successor's sweep deletes it. sent/ is listed in portions (`survey`), and again only when it was
changed; of its envelopes the OLDEST_MAX oldest are kept in mind, and the size of all.
Still wrong: what a person adds to sent/ counts from the next survey on.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.spool import names
from fastjmix.spool.free_space import SENT_INODES
from fastjmix.spool.ticket import Ticket

if TYPE_CHECKING:
    from fastjmix.spool.states import Spool

PORTION: Final = 1000
"""Envelopes that one step looks at, or deletes: some ten milliseconds."""

OLDEST_MAX: Final = 10_000
"""Envelopes that are kept in mind: 2 MB. When all of them are gone, sent/ is listed again."""


STUCK_SECS: Final = 3600.0
"""Seconds for which an envelope that could not be deleted is left out: it is tried again, and is
not in the way."""


class _Kept(NamedTuple):
    delivered: float
    size: int
    id: str


class Trimmed(NamedTuple):
    """The result of one step of `Retention.trim`: what it removed, and whether there is more to
    do."""

    ids: list[str]
    size: int
    more: bool


class Retention:
    """Bounds on sent/: seconds and bytes; None is no bound. For one thread at a time, but for
    `delivered`."""

    def __init__(
        self, spool: Spool, max_age_secs: float | None = None, max_bytes: int | None = None
    ) -> None:
        self._sent: Path = spool.sent
        self._max_age_secs = max_age_secs
        self._max_bytes = max_bytes
        self._clock = time.time() - time.monotonic()
        self._oldest: deque[_Kept] = deque()
        self._complete = False
        self._total = 0
        self._news: deque[str] = deque()
        self._changed_ns = -1
        self._stuck: dict[str, float] = {}
        self._told = False

    def delivered(self, envelope_id: str) -> None:
        """Notes that an envelope has come to sent/. May be called from any thread."""
        self._news.append(envelope_id)

    # -- what is there -------------------------------------------------------------------------

    @property
    def stale(self) -> bool:
        """True when sent/ has changed since it was listed. Raises OSError."""
        return self.exhausted or self._sent.stat().st_mtime_ns != self._changed_ns

    @property
    def exhausted(self) -> bool:
        """True when there may be more in sent/ than is known."""
        return not self._complete and not self._oldest

    def survey(self) -> Iterator[None]:
        """Lists sent/, a portion at each step; the last one makes it known. Raises OSError."""
        changed_ns = self._sent.stat().st_mtime_ns
        self._news.clear()  # they are in the listing
        with os.scandir(self._sent) as entries:
            ids = {
                one[0]
                for entry in entries
                if (one := names.sealed(entry.name)) is not None and one[1] == "json"
            }
        now = time.monotonic()
        self._stuck = {one: at for one, at in self._stuck.items() if now - at < STUCK_SECS}
        found: list[_Kept] = []
        total = count = 0
        for number, envelope_id in enumerate(ids, 1):
            kept = self._look(envelope_id) if envelope_id not in self._stuck else None
            if kept is not None:
                found.append(kept)
                total += kept.size
                count += 1
            if len(found) >= 2 * OLDEST_MAX:
                found = heapq.nsmallest(OLDEST_MAX, found)
            if number % PORTION == 0:
                yield
        self._oldest = deque(heapq.nsmallest(OLDEST_MAX, found))
        self._complete = count == len(self._oldest)
        self._total = total
        self._changed_ns = changed_ns
        self._news = deque(one for one in self._news if one not in ids)

    def _look(self, envelope_id: str) -> _Kept | None:
        with contextlib.suppress(FileNotFoundError):
            archive = (self._sent / f"{envelope_id}.zip").lstat()
            record = (self._sent / f"{envelope_id}.json").lstat()
            if stat.S_ISREG(archive.st_mode) and stat.S_ISREG(record.st_mode):
                return _Kept(record.st_mtime, archive.st_size, envelope_id)
        return None

    def _take_news(self) -> None:
        while self._news:
            if (one := self._look(self._news.popleft())) is None:
                continue
            self._total += one.size
            if self._complete and len(self._oldest) < OLDEST_MAX:
                self._oldest.append(one)
            else:
                self._complete = False

    # -- what goes -----------------------------------------------------------------------------

    @property
    def due_secs(self) -> float | None:
        """Returns the seconds until the oldest is too old; None: never."""
        if self._max_age_secs is None or not self._oldest:
            return None
        return max(0.0, self._oldest[0].delivered + self._max_age_secs - self._now())

    def _now(self) -> float:
        """Returns the earlier of two clocks: setting one, either way, makes nothing older than it
        is.
        """
        return min(time.time(), self._clock + time.monotonic())

    def trim(self, wanted: int = 0, inodes: int = 0) -> Trimmed:
        """Removes the oldest beyond either bound, and until `wanted` bytes are free again, and so
        many `inodes`.

        Looks at no more than PORTION: `more` says whether to ask again. Raises OSError.
        """
        self._take_news()
        removed: list[str] = []
        freed, looked, now = 0, 0, self._now()
        while self._oldest:
            short = freed < wanted or len(removed) * SENT_INODES < inodes
            if not self._goes(self._oldest[0], now, short):
                break
            if looked == PORTION:
                return Trimmed(removed, freed, more=True)
            looked += 1
            one = self._oldest.popleft()
            self._total -= one.size
            if self._remove(one.id):
                removed.append(one.id)
                freed += one.size
            else:
                self._stuck[one.id] = time.monotonic()
        return Trimmed(removed, freed, more=self.exhausted)

    def _goes(self, one: _Kept, now: float, wanted: bool) -> bool:
        old = self._max_age_secs is not None and now - one.delivered > self._max_age_secs
        return wanted or old or (self._max_bytes is not None and self._total > self._max_bytes)

    def _remove(self, envelope_id: str) -> bool:
        """Removes an envelope. Returns False for one that is not ours, or cannot be deleted: the
        others go all the same.
        """
        record = self._sent / f"{envelope_id}.json"
        problem = "its record holds no receipt"
        try:
            if Ticket.read(record, envelope_id).receipt is not None:
                (self._sent / f"{envelope_id}.zip").unlink()
                record.unlink()
                return True
        except FileNotFoundError:
            return False
        except OSError as failure:
            problem = failure.strerror or str(failure)
        except DamagedTicket as failure:
            problem = failure.message
        if not self._told:
            self._told = True  # one line: they are met again at each survey
            hint = "it stays in sent/ with all that are like it"
            log.get().error("expiry_failed", envelope=envelope_id, problem=problem, hint=hint)
        return False

    def run(self, wanted: int = 0, inodes: int = 0) -> list[str]:
        """Removes all of it at once; returns the ids that went. Raises OSError."""
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
