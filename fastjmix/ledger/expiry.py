"""Deletes the oldest rows of the ledger, by age and by size.

Guaranteed: an envelope that is on the disk keeps its row, however old. A step is short, a
transaction of its own, and gives the pages that it freed back to the file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastjmix.ledger import parts, reading, recording
from fastjmix.ledger.database import used_bytes
from fastjmix.ledger.terms import name_words, uid_key
from fastjmix.ledger.writer import Writer

STEP_ENVELOPES: Final = 50
"""Envelopes of one step: 25,000 instances take about a second."""

STEP_ROWS: Final = 2000

ROWS_MAX: Final = 100_000
"""Rows of rejections, of associations that brought nothing, and of errors: a peer or a fault can
make any number, which must not push envelopes out of a ledger that has a size."""

REFUSALS_MAX: Final = 1_000_000
"""Rows of instances that were refused."""

VACUUM_PAGES: Final = 2000
"""Pages that a step gives back to the file system: 8 MB."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the ledger in seconds and bytes; None: without that bound."""

    max_age_secs: float | None = None
    max_bytes: int | None = None


def expire(writer: Writer, limits: Limits, now: float) -> bool:
    """Takes one step; returns whether there is more to delete. Raises sqlite3.Error."""
    connection = writer.connection
    with writer.transaction():
        deleted = 0
        if limits.max_age_secs is not None:
            deleted = _delete_before(connection, now - limits.max_age_secs)
        for table, most in _bounds():
            deleted += _cut(connection, table, most)
        deleted += _cut_empty(connection)
        full = limits.max_bytes is not None and used_bytes(connection) > limits.max_bytes
        if not deleted and full:
            deleted = _delete_oldest(connection)
    if deleted:
        # It frees a page a row of its answer.
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return deleted > 0


def _delete_before(connection: sqlite3.Connection, before: float) -> int:
    """Deletes what is older than a time: some of it. Returns the number of rows."""
    deleted = _delete_envelopes(connection, before)
    deleted += _delete_associations(connection, before)
    for table, column in (("rejections", "last"), ("refusals", "at"), ("errors", "last")):
        asked = (
            f"DELETE FROM {table} WHERE number IN"
            f" (SELECT number FROM {table} WHERE {column} < ? LIMIT {STEP_ROWS})"
        )
        deleted += connection.execute(asked, (before,)).rowcount
    return deleted + _delete_actions(connection, before)


def _delete_oldest(connection: sqlite3.Connection) -> int:
    """Deletes the oldest envelopes that are gone from the disk, and what is older than they."""
    asked = (
        "SELECT max(at) FROM (SELECT at FROM envelopes WHERE state = 'gone' ORDER BY at"
        f" LIMIT {STEP_ENVELOPES})"
    )
    newest = connection.execute(asked).fetchone()[0]
    if newest is None:
        newest = connection.execute(
            f"SELECT max(began) FROM (SELECT began FROM associations ORDER BY began"
            f" LIMIT {STEP_ROWS})"
        ).fetchone()[0]
    return 0 if newest is None else _delete_before(connection, newest + 1e-3)


def _delete_envelopes(connection: sqlite3.Connection, before: float) -> int:
    asked = (
        f"SELECT {reading.ENVELOPE} FROM envelopes WHERE state = 'gone' AND at < ?"
        f" ORDER BY at LIMIT {STEP_ENVELOPES}"
    )
    rows = [reading.envelope(row) for row in connection.execute(asked, (before,))]
    for row in rows:
        origin = reading.provenance(connection, row.number)
        uids = [*row.studies, *(recording.uids_of(origin) if origin is not None else ())]
        _delete_keys(connection, row.number, uids)
        asked = "DELETE FROM names WHERE word = ? AND envelope = ?"
        words = name_words(row.patient_name)
        connection.executemany(asked, ((word, row.number) for word in words))
        for table in (
            "provenance", "envelope_associations", "attempts", "moves", "action_envelopes",
            "upstreams",
        ):  # fmt: skip
            connection.execute(f"DELETE FROM {table} WHERE envelope = ?", (row.number,))
        connection.execute("DELETE FROM envelopes WHERE number = ?", (row.number,))
        parts.forget(connection, row.id)
    return len(rows)


def _delete_keys(connection: sqlite3.Connection, number: int, uids: Iterable[str]) -> None:
    asked = "DELETE FROM uids WHERE key = ? AND envelope = ?"
    connection.executemany(asked, ((key, number) for key in sorted({*map(uid_key, uids)})))


def _delete_associations(connection: sqlite3.Connection, before: float) -> int:
    """Deletes old associations that brought no envelope of which there is still a row."""
    asked = (
        "DELETE FROM associations WHERE number IN (SELECT number FROM associations AS one"
        " WHERE began < ? AND NOT EXISTS (SELECT 1 FROM envelope_associations"
        f" WHERE association = one.number) ORDER BY began LIMIT {STEP_ROWS})"
    )
    return connection.execute(asked, (before,)).rowcount


def _delete_actions(connection: sqlite3.Connection, before: float) -> int:
    asked = f"SELECT number FROM actions WHERE at < ? LIMIT {STEP_ROWS}"
    numbers = connection.execute(asked, (before,)).fetchall()
    connection.executemany("DELETE FROM action_envelopes WHERE action = ?", numbers)
    connection.executemany("DELETE FROM actions WHERE number = ?", numbers)
    return len(numbers)


def _bounds() -> tuple[tuple[str, int], ...]:
    return ("rejections", ROWS_MAX), ("errors", ROWS_MAX), ("refusals", REFUSALS_MAX)


def _cut(connection: sqlite3.Connection, table: str, most: int) -> int:
    """Deletes the first rows of a table that has more than `most`, by their numbers."""
    asked = f"SELECT min(number), max(number) FROM {table}"
    first, last = connection.execute(asked).fetchone()
    if first is None or last - first < most:
        return 0
    until = min(first + STEP_ROWS, last - most + 1)
    return connection.execute(f"DELETE FROM {table} WHERE number < ?", (until,)).rowcount


def _cut_empty(connection: sqlite3.Connection) -> int:
    """Deletes the first associations that brought nothing, where there are more than ROWS_MAX."""
    asked = (
        "DELETE FROM associations WHERE number IN (SELECT number FROM associations AS one"
        " WHERE stored = 0 AND ended IS NOT NULL AND NOT EXISTS (SELECT 1"
        " FROM envelope_associations WHERE association = one.number)"
        f" ORDER BY number DESC LIMIT {STEP_ROWS} OFFSET {ROWS_MAX})"
    )
    return connection.execute(asked).rowcount
