"""Makes the ledger agree with the files: which envelopes there are, and the state of each.

Wanted: after a kill, a lost event, a full disk or a person's move by hand, the ledger says what the
directories say. A ledger that is missing or damaged is made anew from them.
Guaranteed: the rows of envelopes that are no longer on the disk stay. The work goes in steps of
STEP_SECS, so that events are written in between, and each step is a transaction. A difference is
looked at once more before it is believed, because envelopes move meanwhile.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterator, Sequence
from typing import Final

from fastjmix.ledger import parts, privacy, recording
from fastjmix.ledger.writer import Writer

STEP_SECS: Final = 0.1
"""Seconds of one step: as long do events wait."""

FOUND: Final = "found so on the disk"
LOST: Final = "no longer on the disk"


def reconcile(writer: Writer, *, thorough: bool = False) -> Iterator[int]:
    """Corrects the rows; yields after each step how many envelopes are still to be looked at.

    `thorough` reads the files of every envelope again; so does a changed `patient_data`, which
    concerns their provenance, too. Raises sqlite3.Error, OSError.
    """
    if not writer.patient_data and not privacy.is_free(writer.connection):
        yield from privacy.forget(writer)
        thorough = True
    listed = writer.importer.places.listed()
    known = _known(writer.connection)
    if thorough:
        wrong = list(listed)
    else:
        wrong = [one for one, state in listed.items() if known.get(one) != (state, True)]
    wrong += [one for one, (state, _) in known.items() if one not in listed and state != "gone"]
    yield from _correct_all(writer, wrong)
    yield from _correct_all(writer, parts.unconfirmed(writer.connection))
    with writer.transaction():
        asked = "INSERT OR REPLACE INTO facts (name, value) VALUES ('compared_at', ?)"
        writer.connection.execute(asked, (str(time.time()),))
        if not writer.patient_data:
            privacy.note_free(writer.connection)


def _correct_all(writer: Writer, wrong: Sequence[str]) -> Iterator[int]:
    done = 0
    while done < len(wrong):
        deadline = time.monotonic() + STEP_SECS
        with writer.transaction():
            for envelope_id in itertools.islice(wrong, done, None):
                _correct(writer, envelope_id)
                done += 1
                if time.monotonic() > deadline:
                    break
        yield len(wrong) - done


def _known(connection: sqlite3.Connection) -> dict[str, tuple[str, bool]]:
    """Returns the state of each envelope that is on the disk as far as the ledger knows, and
    whether its files have been read."""
    asked = (
        "SELECT id, state, (sealed_at IS NOT NULL AND priority <> '') OR state = 'building'"
        " FROM envelopes"
        " WHERE state IN ('building', 'outbox', 'held', 'sent', 'rejected')"
    )
    return {one: (state, bool(whole)) for one, state, whole in connection.execute(asked)}


def _correct(writer: Writer, envelope_id: str) -> None:
    state, now = writer.importer.places.state(envelope_id), time.time()
    if state != "gone":
        writer.importer.take(envelope_id, state, now, FOUND)
        return
    known = recording.find(writer.connection, envelope_id)
    if known is not None:
        recording.move(writer.connection, known, "gone", now, LOST)
