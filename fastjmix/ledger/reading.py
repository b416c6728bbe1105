"""Makes the values of rows.py from rows of the database."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from fastjmix.errors import DamagedTicket
from fastjmix.ledger.rows import (
    Action,
    Association,
    Attempt,
    EnvelopeRow,
    ErrorRow,
    Instance,
    Move,
    Refusal,
    Rejection,
)
from fastjmix.spool import Provenance

ENVELOPE: Final = (
    "number, id, at, state, since, reason, origin, pipeline, upstream, calling_ae, peer, sealed_at,"
    " instances, bytes, studies, accession_number, patient_id, patient_name, patient_birth_date,"
    " patient_sex, study_date, study_description, modalities, rule, priority, tags"
)
"""The columns of an EnvelopeRow, in its order; the further constants likewise."""

ASSOCIATION: Final = (
    "id, calling_ae, called_ae, peer, implementation_uid, implementation_version, began, ended,"
    " how, stored, refused, bytes, seconds, pdu_bytes, p50_ms, p99_ms, waits, statuses"
)
ATTEMPT: Final = "began, last, times, upstream, seconds, bytes, outcome, status, reason, answer"
REFUSAL: Final = "at, association, sop_instance_uid, sop_class_uid, study_instance_uid, status, why"
REFUSALS_MAX: Final = 1000
"""Refusals in one answer."""

REJECTION: Final = "at, last, times, calling_ae, called_ae, peer, why"
ERROR: Final = "at, last, times, process, event, text"


def envelope(row: Sequence[Any]) -> EnvelopeRow:
    """Returns an envelope from the columns ENVELOPE."""
    values = list(row)
    for place in (14, 22, 25):  # studies, modalities, tags
        values[place] = tuple(orjson.loads(row[place]))
    return EnvelopeRow(*values)


def association(row: Sequence[Any]) -> Association:
    """Returns an association from the columns ASSOCIATION."""
    values = [*row[:16], orjson.loads(row[16]), orjson.loads(row[17])]
    return Association(*values)


def attempts(connection: sqlite3.Connection, number: int) -> tuple[Attempt, ...]:
    """Returns the attempts to deliver an envelope, in order."""
    asked = f"SELECT {ATTEMPT} FROM attempts WHERE envelope = ? ORDER BY number"
    return tuple(Attempt(*row) for row in connection.execute(asked, (number,)))


def moves(connection: sqlite3.Connection, number: int) -> tuple[Move, ...]:
    """Returns an envelope's changes of state, in order."""
    asked = "SELECT at, state, reason FROM moves WHERE envelope = ? ORDER BY number"
    return tuple(Move(*row) for row in connection.execute(asked, (number,)))


def actions(connection: sqlite3.Connection, number: int) -> tuple[Action, ...]:
    """Returns what people did with an envelope, in order."""
    asked = (
        "SELECT at, actor, action, why, result, envelopes, more FROM actions WHERE number IN"
        " (SELECT action FROM action_envelopes WHERE envelope = ?) ORDER BY number"
    )
    rows = connection.execute(asked, (number,))
    return tuple(_action(row) for row in rows)


def _action(row: Sequence[Any]) -> Action:
    values = [*row[:5], tuple(orjson.loads(row[5])), row[6]]
    return Action(*values)


def associations_of(
    connection: sqlite3.Connection, number: int, limit: int
) -> tuple[Association, ...]:
    """Returns the first associations that brought an envelope, in order."""
    asked = (
        f"SELECT {ASSOCIATION} FROM associations WHERE number IN"
        " (SELECT association FROM envelope_associations WHERE envelope = ?) ORDER BY began LIMIT ?"
    )
    return tuple(association(row) for row in connection.execute(asked, (number, limit)))


def count_associations_of(connection: sqlite3.Connection, number: int) -> int:
    """Returns how many associations brought an envelope."""
    asked = "SELECT count(*) FROM envelope_associations WHERE envelope = ?"
    return int(connection.execute(asked, (number,)).fetchone()[0])


def refusals(connection: sqlite3.Connection, where: str, *values: object) -> tuple[Refusal, ...]:
    """Returns the refusals for which an SQL condition of ours holds, in order: the first
    REFUSALS_MAX."""
    asked = f"SELECT {REFUSAL} FROM refusals WHERE {where} ORDER BY number LIMIT {REFUSALS_MAX}"
    return tuple(Refusal(*row) for row in connection.execute(asked, values))


def rejections(
    connection: sqlite3.Connection, limit: int, where: str = "TRUE", *values: object
) -> tuple[Rejection, ...]:
    """Returns the latest rejections of associations for which an SQL condition of ours holds,
    newest first."""
    asked = f"SELECT {REJECTION} FROM rejections WHERE {where} ORDER BY last DESC LIMIT ?"
    return tuple(Rejection(*row) for row in connection.execute(asked, (*values, limit)))


def recent_associations(
    connection: sqlite3.Connection, limit: int, where: str = "TRUE", *values: object
) -> tuple[Association, ...]:
    """Returns the latest associations for which an SQL condition of ours holds, newest first."""
    asked = f"SELECT {ASSOCIATION} FROM associations WHERE {where} ORDER BY began DESC LIMIT ?"
    return tuple(association(row) for row in connection.execute(asked, (*values, limit)))


def errors(connection: sqlite3.Connection, limit: int) -> tuple[ErrorRow, ...]:
    """Returns the latest errors, newest first."""
    asked = f"SELECT {ERROR} FROM errors ORDER BY last DESC LIMIT ?"
    return tuple(ErrorRow(*row) for row in connection.execute(asked, (limit,)))


def provenance(connection: sqlite3.Connection, number: int) -> Provenance | None:
    """Returns where the instances of an envelope came from; None where it is not known.

    Raises sqlite3.DatabaseError for a row that is damaged.
    """
    asked = "SELECT data FROM provenance WHERE envelope = ?"
    row = connection.execute(asked, (number,)).fetchone()
    if row is None:
        return None
    try:
        return Provenance.load(zlib.decompress(row[0]), f"provenance {number}")
    except (zlib.error, DamagedTicket) as problem:
        raise sqlite3.DatabaseError(f"malformed provenance of envelope {number}") from problem


def instances(origin: Provenance, asked: str = "") -> Iterator[Instance]:
    """Yields the instances of an envelope, in the order of its archive: all, or those of the series
    or of the SOP Instance UID `asked`."""
    for uid, series, kind, syntax, which, arrived, size, status, kept in origin.instances:
        if asked and asked not in (uid, origin.series[series]):
            continue
        yield Instance(
            uid,
            origin.series[series],
            origin.sop_classes[kind],
            origin.transfer_syntaxes[syntax],
            origin.associations[which].id if which >= 0 else "",
            arrived or None,
            size,
            status,
            bool(kept),
        )
