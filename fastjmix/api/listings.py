"""Lists the ids of envelopes in each directory, and again only when it has changed.

Wanted: a query among 100,000 envelopes costs five stat(2) while nothing changes, and what changed
while something does.
Guaranteed: an envelope that was in one of the directories when `refresh` began is seen, however it
moves meanwhile. The directories are read in the direction of the moves (spool/standing.py), so
that one on its way is seen at least once; a caller that keeps ids in a set has it once.
Still wrong: an envelope that an upstream refuses between the listings of rejected/ and outbox/, and
that a person moves back before rejected/ is listed again, is seen by the next look only.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix.spool import Spool
from fastjmix.spool.entries import archive_id, draft_id
from fastjmix.spool.standing import SEARCHED, Directory

SETTLE_NS: Final = 50_000_000
"""A directory changed this shortly before a listing may change again without a new mtime: the
kernel's file clock ticks every 1 to 10 ms."""

REQUIRED: Final = ("outbox", "sent")
"""Directories whose absence is an error. The others come and go with what they hold."""


class Changes(NamedTuple):
    """Ids that came to a directory since the last look, and ids that left one."""

    came: frozenset[str]
    went: frozenset[str]


UNCHANGED: Final = Changes(frozenset(), frozenset())


class _Listing:
    """Ids in one directory, and when they were listed."""

    def __init__(self, path: Path, id_of: Callable[[os.DirEntry[str]], str | None]) -> None:
        self._path = path
        self._id_of = id_of
        self._changed_ns = -1
        self._listed_ns = 0
        self.ids: frozenset[str] = frozenset()

    def refresh(self) -> Changes:
        """Lists the directory if it may have changed. Raises OSError."""
        before = self.ids
        try:
            changed_ns = self._path.stat().st_mtime_ns
            if changed_ns == self._changed_ns and self._listed_ns - changed_ns > SETTLE_NS:
                return UNCHANGED
            self._listed_ns = time.time_ns()
            self._changed_ns = changed_ns
            with os.scandir(self._path) as entries:
                self.ids = frozenset(filter(None, map(self._id_of, entries)))
        except FileNotFoundError:
            if self._path.name in REQUIRED:
                raise
            self.ids, self._changed_ns = frozenset(), -1
        return Changes(self.ids - before, before - self.ids)


class Listings:
    """The ids in building/, outbox/, sent/ and rejected/."""

    def __init__(self, spool: Spool) -> None:
        self._each = {
            name: _Listing(spool.root / name, draft_id if name == "building" else archive_id)
            for name in dict.fromkeys(SEARCHED)
        }
        self._left: frozenset[str] = frozenset()
        """Ids that left rejected/ during the last look: their new place is in the next."""

    def refresh(self) -> Changes:
        """Lists what may have changed.

        Returns the ids that came to a directory, by a move too, and those that are in none any
        more. Raises OSError.
        """
        came: set[str] = set()
        went = set(self._left)
        changes = UNCHANGED
        for name in SEARCHED:
            changes = self._each[name].refresh()
            came |= changes.came
            went |= changes.went
        self._left = changes.went  # of the second look at rejected/
        return Changes(frozenset(came), frozenset(one for one in went if not self._has(one)))

    def _has(self, envelope_id: str) -> bool:
        everywhere = (one.ids for one in self._each.values())
        return envelope_id in self._left or any(envelope_id in ids for ids in everywhere)

    def place_of(self, envelope_id: str) -> Directory:
        """Returns the directory in which an envelope was seen: the last of its way."""
        for name in ("sent", "rejected", "outbox"):
            if envelope_id in self._each[name].ids:
                return name
        return "rejected" if envelope_id in self._left else "building"

    def ids_in(self, places: Collection[Directory]) -> frozenset[str]:
        """Returns the ids whose place is one of these."""
        seen = frozenset().union(*(self._each[name].ids for name in places))
        if "rejected" in places:
            seen |= self._left
        return frozenset(one for one in seen if self.place_of(one) in places)

    @property
    def drafts(self) -> frozenset[str]:
        """Returns the ids in building/."""
        return self._each["building"].ids
