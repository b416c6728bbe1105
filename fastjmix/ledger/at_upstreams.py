"""Keeps how an envelope stands at each of several upstreams. One for one upstream has no rows here:
its state says it.

A state is waiting, sent or refused. The files are the truth: `put` takes what they say, `note` an
attempt that has ended since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

from fastjmix.ledger.rows import Attempt, AtUpstream
from fastjmix.spool import Ticket
from fastjmix.spool.ticket import End

ENDED: Final = {"delivered": "sent", "refused": "refused"}
"""The outcomes of an attempt that end an envelope at its upstream, and the state then."""


def put(
    connection: sqlite3.Connection, envelope: int, ticket: Ticket, ends: Mapping[str, End]
) -> None:
    """Writes the states of an envelope with these ends. Raises sqlite3.Error."""
    if len(ticket.upstreams) == 1:
        return
    asked = (
        "INSERT OR REPLACE INTO upstreams (envelope, upstream, place, state, at, reason)"
        " VALUES (?, ?, ?, ?, ?, ?)"
    )
    for place, name in enumerate(ticket.upstreams):
        connection.execute(asked, (envelope, name, place, *_columns(ends.get(name))))


def note(connection: sqlite3.Connection, envelope: int, attempt: Attempt) -> None:
    """Notes an attempt that has ended the envelope at its upstream. Raises sqlite3.Error."""
    if attempt.outcome in ENDED:
        asked = (
            "UPDATE upstreams SET state = ?, at = ?, reason = ? WHERE envelope = ? AND upstream = ?"
        )
        reason = attempt.reason if attempt.outcome == "refused" else ""
        at = attempt.last + attempt.seconds
        values = (ENDED[attempt.outcome], at, reason, envelope, attempt.upstream)
        connection.execute(asked, values)


def of(connection: sqlite3.Connection, envelope: int) -> tuple[AtUpstream, ...]:
    """Returns how an envelope stands at each upstream, in the order of its ticket; () for one."""
    asked = "SELECT upstream, state, at, reason FROM upstreams WHERE envelope = ? ORDER BY place"
    return tuple(AtUpstream(*row) for row in connection.execute(asked, (envelope,)))


def _columns(end: End | None) -> tuple[str, float | None, str]:
    if end is None:
        return "waiting", None, ""
    ((kind, answer),) = end.items()
    at = answer.get("at")
    moment = float(at) if isinstance(at, int | float) else None
    if kind == "receipt":
        return "sent", moment, ""
    return "refused", moment, str(answer.get("reason") or answer.get("why") or "")
