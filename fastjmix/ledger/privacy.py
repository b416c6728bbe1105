"""Takes the patients out of a ledger that an earlier setting wrote.

Wanted: with `[fastjmix.ledger] patient_data = false` the file says nothing of a patient, whichever
setting wrote it: no text of spool.provenance.WITHHELD, no name by which one is found, and no answer
of an upstream, which may quote the patient.
Guaranteed: the fact PATIENT_FREE is in the file only while that holds. The work goes in steps of
STEP_SECS, and begins again at the next start until it is done. In the end the file is written anew
(VACUUM), its log is emptied, and damaged copies are deleted: nothing stays in free pages.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.ledger import database, reading, recording
from fastjmix.ledger.writer import Writer
from fastjmix.spool.provenance import WITHHELD

PATIENT_FREE: Final = "patient_free"

STEP_SECS: Final = 0.1

_EMPTY: Final = ", ".join(f"{name} = ''" for name in WITHHELD)


def begin(connection: sqlite3.Connection, *, patient_data: bool) -> None:
    """Notes that patients will be written, before the first is. Raises sqlite3.Error."""
    if patient_data:
        connection.execute("DELETE FROM facts WHERE name = ?", (PATIENT_FREE,))


def is_free(connection: sqlite3.Connection) -> bool:
    """Returns whether the file says nothing of patients. Raises sqlite3.Error."""
    asked = "SELECT 1 FROM facts WHERE name = ?"
    return connection.execute(asked, (PATIENT_FREE,)).fetchone() is not None


def note_free(connection: sqlite3.Connection) -> None:
    """Notes that the file says nothing of patients. Raises sqlite3.Error."""
    asked = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, 'true')"
    connection.execute(asked, (PATIENT_FREE,))


def forget(writer: Writer) -> Iterator[int]:
    """Empties what names patients; yields after each step how many envelopes are left.

    Raises sqlite3.Error, also when a reader keeps the log from being emptied; OSError.
    """
    connection = writer.connection
    with writer.transaction():
        connection.execute("DELETE FROM names")
    asked = "SELECT coalesce(max(number), 0) FROM envelopes"
    done, last = 0, connection.execute(asked).fetchone()[0]
    while done < last:
        with writer.transaction():
            done = _step(connection, done)
        yield last - done + 1  # the whole file is still to be written anew
    connection.execute("VACUUM")
    if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
        raise sqlite3.OperationalError("database is locked: its log cannot be emptied")
    for copy in database.damaged_copies(_path(connection)):
        copy.unlink(missing_ok=True)


def _step(connection: sqlite3.Connection, done: int) -> int:
    """Empties envelopes behind the number `done`; returns that of the last one."""
    deadline = time.monotonic() + STEP_SECS
    asked = "SELECT number FROM envelopes WHERE number > ? ORDER BY number"
    for (number,) in connection.execute(asked, (done,)).fetchmany(1000):
        connection.execute(f"UPDATE envelopes SET {_EMPTY} WHERE number = ?", (number,))
        connection.execute("UPDATE attempts SET answer = '' WHERE envelope = ?", (number,))
        found = reading.provenance(connection, number)
        if found is not None and (kept := found.without_patient()) is not found:
            recording.put_data(connection, number, kept)
        done = number
        if time.monotonic() > deadline:
            break
    return done


def _path(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])
