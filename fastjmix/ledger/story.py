"""Finds out what a word is, and tells its whole story, from the association to each answer.

A word is tried in this order: an envelope's id, an association's id, a UID (of a study, a series or
an instance), an accession number, a patient ID, the beginning of an envelope's id, and the
beginning of a patient's name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from fastjmix.jmix.ids import canonical_id
from fastjmix.ledger import reading
from fastjmix.ledger.rows import (
    Association,
    EnvelopeRow,
    EnvelopeStory,
    Instance,
    Refusal,
    Step,
    Trace,
)
from fastjmix.ledger.terms import TOP, fold, is_uid, uid_key

TRACE_MAX: Final = 100
"""Envelopes of one story, the newest; a search pages through more."""

PARTS_MAX: Final = 50_000
"""Instances that one story lists, of the newest envelopes: a peer can give any number of envelopes
the same patient, each with max_envelope_instances. The others are counted, and a study, series or
instance is asked for by its UID."""

ASSOCIATIONS_MAX: Final = 2000
"""Associations of one story: a modality may send each instance in its own. The others are
counted."""

REFUSALS_MAX: Final = 2000
"""Refused instances of one story: the first ones."""

PREFIX_MIN: Final = 4
"""Characters from which on a word may be the beginning of an envelope's id."""


class _Found(NamedTuple):
    """What a word is, and the envelopes that it leads to, newest first."""

    kind: str
    envelopes: Sequence[EnvelopeRow]
    uid: str = ""


def trace(connection: sqlite3.Connection, word: str) -> Trace:
    """Returns the story of a word; kind "" where nothing is known of it. Raises sqlite3.Error."""
    word = word.strip()
    found = _find(connection, word)
    if found is None:
        return Trace(word, "")
    associations = {one.id: one for one in _named(connection, found.kind, word)}
    stories: list[EnvelopeStory] = []
    steps: list[Step] = []
    parts_left, left_out = PARTS_MAX, 0
    for row in found.envelopes[:TRACE_MAX]:
        space = max(0, ASSOCIATIONS_MAX - len(associations))
        brought = reading.associations_of(connection, row.number, space)
        left_out += reading.count_associations_of(connection, row.number) - len(brought)
        associations.update((one.id, one) for one in brought)
        whole = _story(connection, row, found.uid, brought)
        steps[:0] = _steps(whole)
        stories.insert(0, _cut(whole, parts_left))
        parts_left -= len(stories[0].instances)
    refused = _refused(connection, found.kind, word, associations)
    ordered = tuple(sorted(associations.values(), key=lambda one: one.began))
    told = [*_steps_of_associations(ordered), *_steps_of_refusals(refused), *steps]
    told.sort(key=lambda step: step.at)
    more = len(found.envelopes) > TRACE_MAX
    return Trace(word, found.kind, ordered, tuple(stories), refused, tuple(told), more, left_out)


def _cut(story: EnvelopeStory, most: int) -> EnvelopeStory:
    """Returns the story with `most` instances at most; its steps were made from all of them."""
    kept = story.instances[:most]
    return replace(story, instances=kept, left_out=len(story.instances) - len(kept))


# -- what a word is --------------------------------------------------------------------------------


def _find(connection: sqlite3.Connection, word: str) -> _Found | None:
    if (envelope_id := canonical_id(word)) is not None:
        rows = _envelopes(connection, "id = ?", envelope_id)
        return _Found("envelope", rows) if rows else None
    asked = "SELECT number FROM associations WHERE id = ?"
    if (row := connection.execute(asked, (word,)).fetchone()) is not None:
        brought = "number IN (SELECT envelope FROM envelope_associations WHERE association = ?)"
        return _Found("association", _envelopes(connection, brought, row[0]))
    if is_uid(word) and (found := _find_uid(connection, word)) is not None:
        return found
    return _find_text(connection, word)


def _find_uid(connection: sqlite3.Connection, uid: str) -> _Found | None:
    key = uid_key(uid)
    held = "number IN (SELECT envelope FROM uids WHERE key = ?)"
    rows = [(kind_in(connection, row, uid), row) for row in _envelopes(connection, held, key)]
    for kind in ("study", "series", "instance"):
        if of_kind := [row for found, row in rows if found == kind]:
            return _Found(kind, of_kind, uid)
    for kind in ("study", "instance"):
        if reading.refusals(connection, f"{kind}_key = ?", key):
            return _Found(kind, (), uid)
    return None


def _find_text(connection: sqlite3.Connection, word: str) -> _Found | None:
    if not word:
        return None
    for kind, column in (("accession", "accession_number"), ("patient_id", "patient_id")):
        if rows := _envelopes(connection, f"{column} = ? AND {column} <> ''", word):
            return _Found(kind, rows)
    lower = word.lower()
    if len(word) >= PREFIX_MIN and (
        rows := _envelopes(connection, "id >= ? AND id < ?", lower, lower + TOP)
    ):
        return _Found("envelope", rows)
    name = fold(word)
    within = "number IN (SELECT envelope FROM names WHERE word >= ? AND word < ?)"
    if name and (rows := _envelopes(connection, within, name, name + TOP)):
        return _Found("patient_name", rows)
    return None


def _envelopes(connection: sqlite3.Connection, where: str, *values: object) -> list[EnvelopeRow]:
    """Returns the newest envelopes for which an SQL condition of ours holds, one more than
    TRACE_MAX at most."""
    asked = f"SELECT {reading.ENVELOPE} FROM envelopes WHERE {where}"
    asked += f" ORDER BY at DESC, number DESC LIMIT {TRACE_MAX + 1}"
    return [reading.envelope(row) for row in connection.execute(asked, values)]


def kind_in(connection: sqlite3.Connection, row: EnvelopeRow, uid: str) -> str:
    """Returns what a UID is in an envelope: study, series, instance, or "" for none of them."""
    if uid in row.studies:
        return "study"
    origin = reading.provenance(connection, row.number)
    if origin is None:
        return ""
    if uid in origin.series:
        return "series"
    return "instance" if any(uid == one[0] for one in origin.instances) else ""


def _named(connection: sqlite3.Connection, kind: str, word: str) -> Iterator[Association]:
    if kind == "association":
        asked = f"SELECT {reading.ASSOCIATION} FROM associations WHERE id = ?"
        yield from map(reading.association, connection.execute(asked, (word,)))


def _refused(
    connection: sqlite3.Connection, kind: str, word: str, associations: Iterable[str]
) -> tuple[Refusal, ...]:
    """Returns the refusals of a study, an instance or an association."""
    if kind == "study":
        found = reading.refusals(connection, "study_key = ?", uid_key(word))
        return tuple(one for one in found if one.study_instance_uid == word)
    if kind == "instance":
        found = reading.refusals(connection, "instance_key = ?", uid_key(word))
        return tuple(one for one in found if one.sop_instance_uid == word)
    if kind == "association":
        return reading.refusals(connection, "association = ?", word)
    every = (
        one
        for association in associations
        for one in reading.refusals(connection, "association = ?", association)
    )
    return tuple(islice(every, REFUSALS_MAX))


# -- the story -------------------------------------------------------------------------------------


def _story(
    connection: sqlite3.Connection, row: EnvelopeRow, uid: str, brought: Iterable[Association]
) -> EnvelopeStory:
    origin = reading.provenance(connection, row.number)
    parts = tuple(reading.instances(origin)) if origin is not None else ()
    return EnvelopeStory(
        row,
        tuple(one.id for one in brought),
        parts if not uid or uid in row.studies else tuple(_asked_for(parts, uid)),
        reading.attempts(connection, row.number),
        reading.moves(connection, row.number),
        reading.actions(connection, row.number),
    )


def _asked_for(parts: Iterable[Instance], uid: str) -> Iterator[Instance]:
    for one in parts:
        if uid in (one.series_instance_uid, one.sop_instance_uid):
            yield one


def _steps_of_associations(associations: Iterable[Association]) -> Iterator[Step]:
    for one in associations:
        facts = one.as_json()
        yield Step(one.began, "association", "", one.id, facts)
        if one.ended is not None:
            yield Step(one.ended, "ended", "", one.id, facts)


def _steps_of_refusals(refused: Iterable[Refusal]) -> Iterator[Step]:
    for one in refused:
        yield Step(one.at, "refusal", "", one.association, one.as_json())


def _steps(story: EnvelopeStory) -> Iterator[Step]:
    row, envelope_id = story.envelope, story.envelope.id
    about = {"studies": row.studies, "calling_ae": row.calling_ae, "origin": row.origin}
    yield Step(row.at, "opened", envelope_id, "", about)
    yield from _arrivals(story)
    if row.sealed_at is not None:
        sealed = {"instances": row.instances, "bytes": row.bytes, "upstream": row.upstream}
        yield Step(row.sealed_at, "sealed", envelope_id, "", sealed)
    for attempt in story.attempts:
        yield Step(attempt.began, "attempt", envelope_id, "", attempt.as_json())
    for move in story.moves:
        yield Step(move.at, "moved", envelope_id, "", move.as_json())
    for action in story.actions:
        yield Step(action.at, "action", envelope_id, "", action.as_json())


def _arrivals(story: EnvelopeStory) -> Iterator[Step]:
    """Yields a step for the instances that came in each association: how many, the first and the
    last."""
    groups: dict[str, list[float]] = {}
    for one in story.instances:
        if one.arrived is not None:
            groups.setdefault(one.association, []).append(one.arrived)
    for association, times in groups.items():
        facts = {"instances": len(times), "first": min(times), "last": max(times)}
        yield Step(max(times), "arrived", story.envelope.id, association, facts)
