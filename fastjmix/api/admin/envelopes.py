"""Tells the envelopes by state: how many, and rows of those that have not arrived.

The directories are read on a thread.
"""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import Final

from fastjmix.api.study_index import StudyIndex
from fastjmix.spool import Spool
from fastjmix.spool.selection import HERE, EnvelopeFacts, Row, Selection, position, select
from fastjmix.spool.standing import Standpoint

LISTED_MAX: Final = 100
"""Rows of the status; the list pages through all."""

SHARE: Final = LISTED_MAX // len(HERE)
"""Rows that each state has at the least, if it has as many envelopes."""

REST: Final = 20.0
"""Times as long as rows took to read pass before they are read again."""

Cursor = tuple[float, str]


class Envelopes:
    """The envelopes of one spool, by an index that is brought up to date at each look."""

    def __init__(self, spool: Spool, index: StudyIndex) -> None:
        self._spool = spool
        self._index = index
        self._rows: list[Row] = []
        self._due = 0.0

    async def listed(self) -> list[EnvelopeFacts]:
        """Returns LISTED_MAX rows at most of what has not arrived; they may be some seconds old
        where there are very many envelopes. Raises OSError."""
        began = time.monotonic()
        if began >= self._due:
            by_state = [await self._first(state) for state in HERE]
            self._rows = _shared_out(by_state)
            ended = time.monotonic()
            self._due = ended + REST * (ended - began)
        return [row.as_json() for row in self._rows]

    async def _first(self, state: Standpoint) -> list[Row]:
        return (await self.page(Selection(states=(state,)), LISTED_MAX))[0]

    async def page(
        self, selection: Selection, limit: int, after: Cursor | None = None
    ) -> tuple[list[Row], Cursor | None]:
        """Returns `limit` selected rows at most, the oldest first, and where the next page begins;
        None for the last page. Raises OSError."""
        entries = await self._index.in_places(selection.places)

        def read() -> list[Row]:
            found = select(self._spool, entries, selection, after)
            return list(islice(found, limit + 1))

        rows = await asyncio.to_thread(read)
        return rows[:limit], position(rows[limit - 1]) if len(rows) > limit else None


def _shared_out(by_state: list[list[Row]]) -> list[Row]:
    """Returns LISTED_MAX rows in the order of their states: each has its share, and the first ones
    have what is left."""
    kept = [rows[:SHARE] for rows in by_state]
    left = LISTED_MAX - sum(map(len, kept))
    for index, rows in enumerate(by_state):
        more = rows[SHARE : SHARE + left]
        kept[index] = kept[index] + more
        left -= len(more)
    return [row for rows in kept for row in rows]
