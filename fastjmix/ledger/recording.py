"""Writes the rows of one envelope or association. Each function is a part of its caller's
transaction, and raises sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, NamedTuple

import orjson

from fastjmix.ledger.kinds import seconds, text
from fastjmix.ledger.rows import Attempt
from fastjmix.ledger.terms import distinct, host, name_words, uid_key
from fastjmix.spool import AssociationFacts, Provenance
from fastjmix.spool.provenance import StudyFacts

ATTEMPTS_MAX: Final = 1000
"""Rows of attempts that an envelope has: equal ones in a row are one. Further ones are not kept,
but for those that end it."""

MOVES_MAX: Final = 1000
"""Rows of changes of state that an envelope has."""

COMPRESSION: Final = 6

RECORD_SECS: Final = 5.0
"""Seconds between the end of an attempt and the time in its receipt or refusal, at most."""

ENDS: Final = ("delivered", "refused")


class Known(NamedTuple):
    """An envelope's row: its number, its state, and whether its ticket has been read."""

    number: int
    state: str
    read: bool = False


def find(connection: sqlite3.Connection, envelope_id: str) -> Known | None:
    """Returns an envelope's row; None where there is none."""
    asked = "SELECT number, state, sealed_at IS NOT NULL FROM envelopes WHERE id = ?"
    row = connection.execute(asked, (envelope_id,)).fetchone()
    return None if row is None else Known(row[0], row[1], bool(row[2]))


def add(connection: sqlite3.Connection, envelope_id: str, state: str, at: float) -> Known:
    """Adds an envelope of which nothing else is known yet."""
    asked = "INSERT INTO envelopes (id, state, at, since) VALUES (?, ?, ?, ?)"
    made = connection.execute(asked, (envelope_id, state, at, at)).lastrowid
    assert made is not None
    return Known(made, state)


def update(connection: sqlite3.Connection, number: int, values: Mapping[str, object]) -> None:
    """Sets columns of an envelope. The names of the columns are ours."""
    if values:
        columns = ", ".join(f"{name} = ?" for name in values)
        asked = f"UPDATE envelopes SET {columns} WHERE number = ?"
        connection.execute(asked, (*values.values(), number))


def move(connection: sqlite3.Connection, known: Known, state: str, at: float, reason: str) -> None:
    """Changes an envelope's state, and keeps when and why; does nothing where it has that state."""
    if known.state == state:
        return
    update(connection, known.number, {"state": state, "since": at, "reason": reason})
    if (known.state, state) == ("building", "outbox"):
        return  # its time is sealed_at
    asked = "SELECT count(*) FROM moves WHERE envelope = ?"
    if connection.execute(asked, (known.number,)).fetchone()[0] < MOVES_MAX:
        asked = "INSERT INTO moves (envelope, at, state, reason) VALUES (?, ?, ?, ?)"
        connection.execute(asked, (known.number, at, state, reason))


def index_uids(connection: sqlite3.Connection, number: int, uids: Iterable[str]) -> None:
    """Makes an envelope known by UIDs."""
    asked = "INSERT OR IGNORE INTO uids (key, envelope) VALUES (?, ?)"
    keys = sorted({uid_key(uid) for uid in uids if uid})  # neighbours one after the other
    connection.executemany(asked, ((key, number) for key in keys))


def uids_of(origin: Provenance) -> Iterable[str]:
    """Yields every UID by which an envelope is found, but for its studies."""
    yield from origin.series
    yield from (one.sop_instance_uid for one in origin.instances)


def put_provenance(
    connection: sqlite3.Connection, number: int, origin: Provenance
) -> dict[str, object]:
    """Keeps where an envelope's instances came from; returns the columns that follow from it."""
    put_data(connection, number, origin)
    index_uids(connection, number, uids_of(origin))
    for one in origin.associations:
        if one.id:
            link(connection, number, put_known_association(connection, one))
    study = put_study(connection, number, origin.study)
    peer = origin.associations[0].peer if origin.associations else ""
    return {**study, **({"peer": host(peer)} if peer else {})}


def put_study(connection: sqlite3.Connection, number: int, facts: StudyFacts) -> dict[str, str]:
    """Makes an envelope known by its patient's name, and no longer by one that was taken for it;
    returns the columns that say what its study is."""
    asked = "SELECT patient_name FROM envelopes WHERE number = ?"
    before = name_words(connection.execute(asked, (number,)).fetchone()[0])
    words = name_words(facts.patient_name)
    asked = "DELETE FROM names WHERE word = ? AND envelope = ?"
    connection.executemany(asked, ((word, number) for word in before - words))
    asked = "INSERT OR IGNORE INTO names (word, envelope) VALUES (?, ?)"
    connection.executemany(asked, ((word, number) for word in words))
    study = asdict(facts)
    del study["study_instance_uid"]  # the ticket has all studies
    return {**study, "modalities": orjson.dumps(distinct(facts.modalities)).decode()}


def put_data(connection: sqlite3.Connection, number: int, origin: Provenance) -> None:
    """Keeps the text of a provenance, compressed."""
    asked = "INSERT OR REPLACE INTO provenance (envelope, data) VALUES (?, ?)"
    connection.execute(asked, (number, zlib.compress(origin.dump(), COMPRESSION)))


# -- associations ----------------------------------------------------------------------------------

_FACTS: Final = tuple(one.name for one in fields(AssociationFacts))


def put_known_association(connection: sqlite3.Connection, facts: AssociationFacts) -> int:
    """Returns the number of an association. Adds one of which the end is not known where it has no
    row, and completes a row that has only what the event of an envelope's opening said."""
    asked = "SELECT number, peer = '' AND ended IS NULL FROM associations WHERE id = ?"
    row = connection.execute(asked, (facts.id,)).fetchone()
    values = asdict(facts)
    if row is None:
        asked = f"INSERT INTO associations ({', '.join(_FACTS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        made = connection.execute(asked, [values[name] for name in _FACTS]).lastrowid
        assert made is not None
        return made
    number, bare = row
    if bare and facts.peer:
        _set(connection, number, values)
    return int(number)


def put_association(connection: sqlite3.Connection, values: Mapping[str, object]) -> None:
    """Adds an association that has ended, or completes its row. The names are those of columns."""
    facts = AssociationFacts(text(values, "id"), began=seconds(values, "began") or 0.0)
    _set(connection, put_known_association(connection, facts), values)


def _set(connection: sqlite3.Connection, number: int, values: Mapping[str, object]) -> None:
    columns = ", ".join(f"{name} = ?" for name in values)
    asked = f"UPDATE associations SET {columns} WHERE number = ?"
    connection.execute(asked, (*values.values(), number))


def link(connection: sqlite3.Connection, envelope: int, association: int) -> None:
    """Notes that an association brought instances of an envelope."""
    asked = "INSERT OR IGNORE INTO envelope_associations (envelope, association) VALUES (?, ?)"
    connection.execute(asked, (envelope, association))


# -- attempts --------------------------------------------------------------------------------------


def add_attempt(connection: sqlite3.Connection, envelope: int, attempt: Attempt) -> None:
    """Adds an attempt; counts it with the one before when that had the same outcome.

    One that ended the envelope's way may be known from the record beside the archive: then its row
    is completed.
    """
    asked = (
        "SELECT number, began, upstream, outcome, status, reason FROM attempts WHERE envelope = ?"
        " ORDER BY number DESC LIMIT 1"
    )
    last = connection.execute(asked, (envelope,)).fetchone()
    if last is not None and _complete(connection, last, attempt):
        return
    asked = "SELECT count(*) FROM attempts WHERE envelope = ?"
    full = connection.execute(asked, (envelope,)).fetchone()[0] >= ATTEMPTS_MAX
    if not full or attempt.outcome in ENDS:
        asked = (
            "INSERT INTO attempts (envelope, began, last, times, upstream, seconds, bytes, outcome,"
            " status, reason, answer) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        values = [getattr(attempt, name) for name in Attempt.__slots__]
        connection.execute(asked, (envelope, *values))


def has_ended(connection: sqlite3.Connection, envelope: int) -> bool:
    """Returns whether an attempt is known that ended the envelope's way."""
    asked = "SELECT 1 FROM attempts WHERE envelope = ? AND outcome IN (?, ?)"
    return connection.execute(asked, (envelope, *ENDS)).fetchone() is not None


def _complete(connection: sqlite3.Connection, last: Sequence[Any], attempt: Attempt) -> bool:
    """Adds an attempt to the row of the one before; returns False where it needs its own."""
    number, began, *same = last
    outcome = [attempt.upstream, attempt.outcome, attempt.status]
    if same[:-1] != outcome:
        return False
    if attempt.outcome not in ENDS:
        if same[-1] != attempt.reason:
            return False
        asked = "UPDATE attempts SET last = ?, times = times + 1"
    elif abs(began - attempt.began - attempt.seconds) < RECORD_SECS:
        asked = "UPDATE attempts SET began = ?"
    else:
        return False
    values = (attempt.began, attempt.seconds, attempt.bytes, attempt.answer, attempt.reason)
    asked += ", seconds = ?, bytes = ?, answer = ?, reason = ? WHERE number = ?"
    connection.execute(asked, (*values, number))
    return True
