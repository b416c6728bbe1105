"""Finds the envelopes of a study: an index in memory over outbox/ and sent/.

Wanted: a query by Study Instance UID among 100,000 envelopes without opening 100,000 tickets.
Guaranteed: an answer holds every envelope that was in outbox/ or sent/ when the query came, and
none that had left before. The index is a cache of the files: it is read from them, only names not
seen before are opened, and it ends with the process. An envelope whose ticket cannot be read is
left out, and looked at again after UNREADABLE_SECS. All disk work is done in a thread.
Still wrong: while envelopes arrive, each query lists the directories again (about 0.1 s for
100,000 names); an entry takes about 800 bytes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.spool import Spool, State, Ticket, names

SETTLE_NS: Final = 50_000_000
"""A directory changed this shortly before a listing may change again without a new mtime: the
kernel's file clock ticks every 1 to 10 ms."""

UNREADABLE_SECS: Final = 60.0
"""Seconds for which an unreadable ticket is not tried again: a person has to correct it."""

SEARCHED: Final[tuple[State, ...]] = ("outbox", "sent")
"""In the direction in which envelopes move, so that one on its way is seen at least once."""


class Entry(NamedTuple):
    """One envelope. `sealed_at` is Unix seconds; `state` is "outbox" or "sent"."""

    id: str
    studies: tuple[str, ...]
    instances: int
    size_bytes: int
    sealed_at: float
    state: State


@dataclass(slots=True)
class _Listing:
    """Ids of the archives in a directory, and when they were listed."""

    path: Path
    changed_ns: int = -1
    listed_ns: int = 0
    ids: frozenset[str] = frozenset()

    def refresh(self) -> bool:
        """Lists the directory if it may have changed. Returns True when it was listed."""
        changed_ns = self.path.stat().st_mtime_ns
        if changed_ns == self.changed_ns and self.listed_ns - changed_ns > SETTLE_NS:
            return False
        self.listed_ns = time.time_ns()
        self.changed_ns = changed_ns
        with os.scandir(self.path) as entries:
            self.ids = frozenset(filter(None, map(_archive_id, entries)))
        return True


def _archive_id(entry: os.DirEntry[str]) -> str | None:
    """Returns the id of an archive; None for another name."""
    found = names.sealed(entry.name)
    if found is None or found[1] != "zip" or not entry.is_file(follow_symlinks=False):
        return None
    return found[0]


class StudyIndex:
    """The envelopes of each study. `of_study` brings the index up to date first."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._listings = {state: _Listing(spool.root / state) for state in SEARCHED}
        self._tickets: dict[str, Entry] = {}
        self._by_study: defaultdict[str, set[str]] = defaultdict(set)
        self._unreadable: set[str] = set()
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    async def of_study(self, study: str) -> list[Entry]:
        """Returns envelopes with instances of this study, newest first. Raises OSError."""
        async with self._lock:
            await asyncio.to_thread(self._refresh)
            found = [self._entry(envelope_id) for envelope_id in self._by_study.get(study, ())]
        return sorted(found, key=lambda entry: (entry.sealed_at, entry.id), reverse=True)

    async def warm(self) -> None:
        """Reads the tickets before the first query. Raises OSError."""
        async with self._lock:
            await asyncio.to_thread(self._refresh)

    def _entry(self, envelope_id: str) -> Entry:
        state: State = "sent" if envelope_id in self._listings["sent"].ids else "outbox"
        return self._tickets[envelope_id]._replace(state=state)

    def _refresh(self) -> None:
        changed = [self._listings[state].refresh() for state in SEARCHED]
        retry = bool(self._unreadable) and time.monotonic() >= self._retry_at
        if not any(changed) and not retry:
            return
        here = self._listings["outbox"].ids | self._listings["sent"].ids
        for envelope_id in self._tickets.keys() - here:
            self._forget(envelope_id)
        self._unreadable &= here
        for envelope_id in self._unreadable if retry else ():
            self._add(envelope_id)
        self._unreadable -= self._tickets.keys()
        new = here - self._tickets.keys() - self._unreadable
        problems = {one: why for one in new if (why := self._add(one)) is not None}
        if retry or problems:
            self._retry_at = time.monotonic() + UNREADABLE_SECS
        self._unreadable |= problems.keys()
        for envelope_id, why in list(problems.items())[:1]:
            log.get().error(
                "ticket_damaged", envelope=envelope_id, problem=why, count=len(problems)
            )

    def _add(self, envelope_id: str) -> str | None:
        """Adds an envelope to the index. Returns the problem when its ticket cannot be read."""
        try:
            ticket = self._read(envelope_id)
        except DamagedTicket as problem:
            return problem.message
        except OSError as problem:
            return problem.strerror or str(problem)
        if ticket is None:
            return (
                None  # it left since the listing; that changes a directory, which is listed again
            )
        held = (ticket.studies, ticket.instances, ticket.size_bytes, ticket.sealed_at)
        self._tickets[envelope_id] = Entry(envelope_id, *held, "outbox")
        for study in ticket.studies:
            self._by_study[study].add(envelope_id)
        return None

    def _read(self, envelope_id: str) -> Ticket | None:
        """Returns a ticket; None when it has left. Raises OSError, DamagedTicket."""
        problem: OSError | DamagedTicket | None = None
        for state in SEARCHED:
            try:
                return self._spool.ticket(state, envelope_id)
            except FileNotFoundError:
                continue
            except (OSError, DamagedTicket) as found:
                problem = found
        if problem is not None:
            raise problem
        return None

    def _forget(self, envelope_id: str) -> None:
        for study in self._tickets.pop(envelope_id).studies:
            self._by_study[study].discard(envelope_id)
            if not self._by_study[study]:
                del self._by_study[study]
