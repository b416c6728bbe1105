"""Counts the envelopes in each state, from the directories.

Wanted: a restart does not make a rejected envelope invisible, as a counter in memory would.
Guaranteed: the numbers are those of the files at the last look. A look is taken when they are asked
for, LOOK_SECS after the last at the earliest, and REST times as long after as that took: with
100,000 envelopes it takes a third of a second. Any thread may ask.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypedDict

from fastjmix.jmix.ids import is_id
from fastjmix.spool import names, recipe
from fastjmix.spool.directories import Directories, State
from fastjmix.spool.holds import HOLD
from fastjmix.spool.standing import Standpoint

LOOK_SECS: Final = 5.0
"""How long numbers are known without another look."""

REST: Final = 20.0
"""Times as long as a look took pass before the next one."""

ID_CHARS: Final = 36
"""Characters of an id."""

_Stats = dict[str, os.stat_result]


class StateSum(TypedDict):
    """The envelopes in one state, as JSON; None for a number that is not known."""

    count: int | None
    bytes: int | None
    oldest_secs: int | None


UNKNOWN: Final[StateSum] = {"count": None, "bytes": None, "oldest_secs": None}


@dataclass(slots=True)
class Count:
    """The envelopes in one state.

    `since` is when the one that is there for longest came, in Unix seconds; None for none, and for
    sent/, where nobody waits for them. `size_bytes` is None there too.
    """

    count: int = 0
    since: float | None = None
    size_bytes: int | None = 0

    def add(self, size: int, since: float) -> None:
        """Counts one more."""
        self.count += 1
        self.size_bytes = (self.size_bytes or 0) + size
        self.since = since if self.since is None else min(self.since, since)

    def as_json(self) -> StateSum:
        """Returns the number, the bytes and the oldest's age."""
        oldest = None if self.since is None else int(self.age())
        return {"count": self.count, "bytes": self.size_bytes, "oldest_secs": oldest}

    def age(self) -> float:
        """Returns for how many seconds the oldest is there; 0 for none."""
        return 0.0 if self.since is None else max(0.0, time.time() - self.since)


Counts = Mapping[Standpoint, Count]


def sums_json(counts: Counts) -> dict[Standpoint, StateSum]:
    """Returns the sums of all states, as JSON."""
    return {state: one.as_json() for state, one in counts.items()}


class Tally:
    """The counts of one spool."""

    def __init__(self, spool: Directories) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._counts: Counts = {}
        self._due = -math.inf

    def counts(self) -> Counts:
        """Returns the count of each state. Raises OSError."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._counts = self._look()
                ended = time.monotonic()
                self._due = ended + max(LOOK_SECS, REST * (ended - began))
            return self._counts

    def _look(self) -> Counts:
        building = self._building()
        outbox, held = self._outbox()
        rejected = self._rejected()
        with os.scandir(self._spool.sent) as entries:
            sent = sum(map(_is_archive, entries))
        return {
            "building": building,
            "outbox": outbox,
            "held": held,
            "rejected": rejected,
            "sent": Count(sent, None, None),
        }

    def _building(self) -> Count:
        found = Count()
        for directory in self._spool.building.iterdir():
            if not is_id(directory.name):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                begun = (directory / recipe.NAME).lstat().st_mtime
                size = 0
                with contextlib.suppress(FileNotFoundError):
                    size = (directory / names.ARCHIVE).lstat().st_size
                found.add(size, begun)
        return found

    def _outbox(self) -> tuple[Count, Count]:
        """Returns the envelopes that wait, by the age of their archives; and those on hold, by the
        age of their holds."""
        waiting, held = Count(), Count()
        archives, holds = self._stats("outbox", (".zip", HOLD))
        for envelope_id, archive in archives.items():
            hold = holds.get(envelope_id)
            if hold is None:
                waiting.add(archive.st_size, archive.st_mtime)
            else:
                held.add(archive.st_size, hold.st_mtime)
        return waiting, held

    def _rejected(self) -> Count:
        """Returns the rejected envelopes, by the age of their records."""
        found = Count()
        archives, records = self._stats("rejected", (".zip", ".json"))
        for envelope_id, archive in archives.items():
            found.add(archive.st_size, records.get(envelope_id, archive).st_mtime)
        return found

    def _stats(self, state: State, endings: tuple[str, str]) -> tuple[_Stats, _Stats]:
        """Returns what the system knows of the regular files with these endings, by id."""
        found: tuple[_Stats, _Stats] = ({}, {})
        try:
            entries = os.scandir(self._spool.root / state)
        except FileNotFoundError:
            if state == "rejected":  # it may have been deleted, and is made again
                return found
            raise
        with entries:
            for entry in entries:
                stem, ending = entry.name[:ID_CHARS], entry.name[ID_CHARS:]
                if ending in endings and is_id(stem) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # it moved on
                        known = entry.stat(follow_symlinks=False)
                        found[endings.index(ending)][stem] = known
        return found


def _is_archive(entry: os.DirEntry[str]) -> bool:
    found = names.sealed(entry.name)
    return found is not None and found[1] == "zip" and entry.is_file(follow_symlinks=False)
