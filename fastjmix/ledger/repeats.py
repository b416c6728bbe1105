"""Counts equal rejections and errors in one row, so that a peer that tries again for ever fills no
disk.

Each function is a part of its caller's transaction, and raises sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import Final, Literal

REPEATS_MAX: Final = 256
"""Rejections and errors of which the latest row is remembered, to count equal ones there."""

REPEAT_SECS: Final = 3600.0
"""A rejection or an error that comes again later than this begins a row of its own."""

Key = tuple[object, ...]
"""The facts in which two rows are equal."""


class Repeats:
    """The latest rows that may come again, by their keys."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: OrderedDict[Key, tuple[int, float]] = OrderedDict()

    def count(
        self, table: Literal["rejections", "errors"], key: Key, at: float, times: int = 1
    ) -> bool:
        """Counts `times` more in the row of a key; returns False where there is none."""
        number, last = self._rows.get(key, (0, 0.0))
        if not number or at - last > REPEAT_SECS:
            return False
        asked = f"UPDATE {table} SET last = ?, times = times + ? WHERE number = ?"
        done = self._connection.execute(asked, (at, times, number)).rowcount
        self.remember(key, number if done else None, at)
        return bool(done)

    def remember(self, key: Key, number: int | None, at: float) -> None:
        """Notes the row of a key, and when it came last; None: it has none any more."""
        self._rows.pop(key, None)
        if number is not None:
            self._rows[key] = number, at
        if len(self._rows) > REPEATS_MAX:
            self._rows.popitem(last=False)

    def forget(self) -> None:
        """Forgets all rows: their transaction was undone."""
        self._rows.clear()
