"""Keeps which envelopes are parts of another one, and the splits that made them.

The files are the truth. The ticket of a part names the whole; the refusal of the whole names the
parts, in their order, and who has split it (spool/part.py). Each is enough for a row: the other
envelope may be gone. `place` counts the parts from 1; 0: the refusal of the whole has not been read
since. A split is an action of the ledger, with the time that the refusal says.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import orjson

from fastjmix.ipc.actions import DONE
from fastjmix.spool import Ticket
from fastjmix.spool.part import Split, split_of, whole_of

ACTION: Final = "split"

SHOWN: Final = 50
"""Parts that the action names; the others are counted, and are in split_parts."""


def put(connection: sqlite3.Connection, envelope: int, ticket: Ticket) -> None:
    """Writes what the ticket of an envelope says. Raises sqlite3.Error."""
    if whole := whole_of(ticket):
        asked = "INSERT OR IGNORE INTO split_parts (part, whole, place) VALUES (?, ?, 0)"
        connection.execute(asked, (ticket.id, whole))
    if (split := split_of(ticket)) is not None:
        asked = "INSERT OR REPLACE INTO split_parts (part, whole, place) VALUES (?, ?, ?)"
        rows = ((part, ticket.id, place) for place, part in enumerate(split.parts, 1))
        connection.executemany(asked, rows)
        _put_action(connection, envelope, ticket.id, split)


def _put_action(
    connection: sqlite3.Connection, envelope: int, envelope_id: str, split: Split
) -> None:
    asked = (
        "SELECT 1 FROM actions WHERE action = ? AND at = ?"
        " AND number IN (SELECT action FROM action_envelopes WHERE envelope = ?)"
    )
    if connection.execute(asked, (ACTION, split.at, envelope)).fetchone() is not None:
        return
    asked = (
        "INSERT INTO actions (at, actor, action, why, result, envelopes, more)"
        " VALUES (?, ?, ?, '', ?, ?, ?)"
    )
    result = f"{DONE}: {len(split.parts)} parts"
    named = orjson.dumps([envelope_id, *split.parts[:SHOWN]]).decode()
    values = (split.at, split.by, ACTION, result, named, max(0, len(split.parts) - SHOWN))
    made = connection.execute(asked, values).lastrowid
    asked = "INSERT INTO action_envelopes (envelope, action) VALUES (?, ?)"
    connection.execute(asked, (envelope, made))


def unconfirmed(connection: sqlite3.Connection) -> list[str]:
    """Returns the rejected envelopes of which a part is known, and the split is not: their files
    are to be read again. Raises sqlite3.Error."""
    asked = (
        "SELECT id FROM envelopes WHERE state = 'rejected'"
        " AND id IN (SELECT whole FROM split_parts WHERE place = 0)"
    )
    return [row[0] for row in connection.execute(asked)]


def whole(connection: sqlite3.Connection, part: str) -> str:
    """Returns the id of the envelope that this one is a part of, "" for none. Raises
    sqlite3.Error."""
    asked = "SELECT whole FROM split_parts WHERE part = ?"
    row = connection.execute(asked, (part,)).fetchone()
    return "" if row is None else str(row[0])


def of(connection: sqlite3.Connection, whole_id: str) -> tuple[str, ...]:
    """Returns the ids of the parts of an envelope, in their order. Raises sqlite3.Error."""
    asked = "SELECT part FROM split_parts WHERE whole = ? ORDER BY place, part"
    return tuple(row[0] for row in connection.execute(asked, (whole_id,)))


def forget(connection: sqlite3.Connection, envelope_id: str) -> None:
    """Forgets what an envelope was split into or is a part of, where neither has a row any more.
    Raises sqlite3.Error."""
    asked = (
        "DELETE FROM split_parts WHERE ?1 IN (part, whole) AND NOT EXISTS"
        " (SELECT 1 FROM envelopes WHERE id IN (part, whole))"
    )
    connection.execute(asked, (envelope_id,))
