"""Finds the envelopes of a study: an index in memory over all four directories of the spool.

Wanted: a query by Study Instance UID among 100,000 envelopes without opening 100,000 tickets.
Guaranteed: an answer holds every envelope that was on the disk when the query came, once, and none
that had left before: also one that is sealed, delivered, rejected or taken back meanwhile
(listings.py). The index is a cache of the files: it is read from them, only names not seen before
are opened, and it ends with the process. A draft is read once, and its ticket when it is sealed. An
envelope whose ticket cannot be read is left out, and looked at again after UNREADABLE_SECS. All
disk work is done in a thread.
Still wrong: while envelopes arrive, each query lists the directories again (about 0.1 s for
100,000 names); an entry takes about 800 bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from fastjmix import log
from fastjmix.api.listings import Listings
from fastjmix.errors import DamagedTicket, reason
from fastjmix.spool import Spool
from fastjmix.spool.entries import Entry, find_entry
from fastjmix.spool.standing import Directory

UNREADABLE_SECS: Final = 60.0
"""Seconds for which an unreadable ticket is not tried again: a person has to correct it."""


class StudyIndex:
    """The envelopes of each study. Each look brings the index up to date first."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._listings = Listings(spool)
        self._entries: dict[str, Entry] = {}
        self._drafts: set[str] = set()
        self._by_study: defaultdict[str, set[str]] = defaultdict(set)
        self._unreadable: set[str] = set()
        self._absent: set[str] = set()  # no ticket beside them: looked for with each change
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    async def of_study(self, study: str) -> list[Entry]:
        """Returns envelopes with instances of this study: those being packed, then the others,
        newest first. Raises OSError."""
        async with self._lock:
            await asyncio.to_thread(self._refresh)
            found = [self._entry(envelope_id) for envelope_id in self._by_study.get(study, ())]
            counted = [entry for entry in found if entry.replaces not in self._listings.drafts]
        return sorted(counted, key=lambda one: (not one.sealed, one.at, one.id), reverse=True)

    async def in_places(self, places: Collection[Directory]) -> list[Entry]:
        """Returns the envelopes in these directories, in no order, one whose ticket cannot be read
        too. Raises OSError."""
        async with self._lock:
            return await asyncio.to_thread(self._in_places, places)

    def _in_places(self, places: Collection[Directory]) -> list[Entry]:
        self._refresh()
        ids = self._listings.ids_in(places)
        found = [self._entry(one) for one in ids if one in self._entries]
        counted = [entry for entry in found if entry.replaces not in self._listings.drafts]
        bare = self._unreadable & ids
        return counted + [Entry.unreadable(one, self._listings.place_of(one)) for one in bare]

    async def warm(self) -> None:
        """Reads the tickets before the first query. Raises OSError."""
        async with self._lock:
            await asyncio.to_thread(self._refresh)

    def _entry(self, envelope_id: str) -> Entry:
        entry = self._entries[envelope_id]
        place = self._listings.place_of(envelope_id)
        # One that was listed as a draft may have been sealed before it was read.
        return entry if place == "building" else entry._replace(place=place)

    def _refresh(self) -> None:
        came, went = self._listings.refresh()
        retry = bool(self._unreadable) and time.monotonic() >= self._retry_at
        if not came and not went and not retry and not self._absent:
            return
        sealed = {one for one in came & self._drafts if self._listings.place_of(one) != "building"}
        for envelope_id in (went & self._entries.keys()) | sealed:
            self._forget(envelope_id)
        self._unreadable -= went
        self._absent -= went
        for envelope_id in self._unreadable if retry else ():
            self._add(envelope_id)
        self._unreadable -= self._entries.keys()
        new = {*came, *self._absent} - self._entries.keys() - self._unreadable - went
        problems = {one: why for one in new if (why := self._add(one)) is not None}
        self._absent = new - self._entries.keys() - problems.keys()
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
            place = self._listings.place_of(envelope_id)
            entry = find_entry(self._spool, envelope_id, place)
        except (OSError, DamagedTicket) as problem:
            return reason(problem)
        if entry is None:  # it left since the listing, or its ticket is missing
            return None
        self._entries[envelope_id] = entry
        if not entry.sealed:
            self._drafts.add(envelope_id)
        for study in entry.studies:
            self._by_study[study].add(envelope_id)
        return None

    def _forget(self, envelope_id: str) -> None:
        self._drafts.discard(envelope_id)
        for study in self._entries.pop(envelope_id).studies:
            self._by_study[study].discard(envelope_id)
            if not self._by_study[study]:
                del self._by_study[study]
