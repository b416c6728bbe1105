"""Finds out what a word is, and tells its whole story, from the association to each answer.

A word is tried in this order: an envelope's id, an association's id, a UID (of a study, a series or
an instance), an accession number, a patient ID, the AE title or the address of a peer, the
beginning of an envelope's id, and the beginning of a patient's name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, NamedTuple

from fastjmix.jmix.ids import canonical_id
from fastjmix.ledger import at_upstreams, parts, reading
from fastjmix.ledger.rows import (
    Association,
    EnvelopeRow,
    EnvelopeStory,
    Refusal,
    Rejection,
    Step,
    Trace,
)
from fastjmix.ledger.terms import TOP, fold, host, is_uid, uid_key

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

PEER_MAX: Final = 20
"""Associations, and rejections, of an AE title or an address: the newest."""

PREFIX_MIN: Final = 4
"""Characters from which on a word may be the beginning of an envelope's id."""


class _Found(NamedTuple):
    """The kind of a word, and the envelopes that it leads to, newest first."""

    kind: str
    envelopes: Sequence[EnvelopeRow]
    uid: str = ""


def trace(connection: sqlite3.Connection, word: str) -> Trace:
    """Returns the story of a word; kind "" where nothing is known of it. Raises sqlite3.Error."""
    word = word.strip()
    found = _find(connection, word)
    if found is None:
        return Trace(word, "")
    if isinstance(found, Trace):
        return found
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
    told = _in_order(ordered, refused, (), steps)
    more = len(found.envelopes) > TRACE_MAX
    return Trace(word, found.kind, ordered, tuple(stories), refused, (), told, more, left_out)


def _cut(story: EnvelopeStory, most: int) -> EnvelopeStory:
    """Returns the story with `most` instances at most; its steps were made from all of them."""
    kept = story.instances[:most]
    return replace(story, instances=kept, left_out=len(story.instances) - len(kept))


# -- what a word is --------------------------------------------------------------------------------


def _find(connection: sqlite3.Connection, word: str) -> _Found | Trace | None:
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


def _find_text(connection: sqlite3.Connection, word: str) -> _Found | Trace | None:
    if not word:
        return None
    for kind, column in (("accession", "accession_number"), ("patient_id", "patient_id")):
        if rows := _envelopes(connection, f"{column} = ? AND {column} <> ''", word):
            return _Found(kind, rows)
    if (of_peer := _peer(connection, word)) is not None:
        return of_peer
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


def _peer(connection: sqlite3.Connection, word: str) -> Trace | None:
    """Returns the story of an AE title or an address: the associations that it made lately, and
    those of it that were rejected. A called AE title is known by rejections only."""
    for kind, made, rejected, values in _conditions_of_peer(word):
        associations = reading.recent_associations(connection, PEER_MAX, made, *values)
        rejections = reading.rejections(connection, PEER_MAX, rejected, *values)
        if associations or rejections:
            ordered = associations[::-1]
            refused = _refused(connection, kind, word, [one.id for one in ordered])
            steps = _in_order(ordered, refused, rejections[::-1])
            return Trace(word, kind, ordered, (), refused, rejections[::-1], steps)
    return None


def _conditions_of_peer(word: str) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yields kinds of peers, SQL conditions for associations and for rejections, their values."""
    yield "ae", "calling_ae = ?1", "(calling_ae = ?1 OR called_ae = ?1)", (word,)
    address = host(word)
    begin = f"[{address}]:" if ":" in address else f"{address}:"
    within = "peer >= ?1 AND peer < ?2"
    yield "peer", within, within, (begin, begin + TOP)


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
    return "instance" if any(uid == one.sop_instance_uid for one in origin.instances) else ""


def _named(connection: sqlite3.Connection, kind: str, word: str) -> Iterator[Association]:
    if kind == "association":
        asked = f"SELECT {reading.ASSOCIATION} FROM associations WHERE id = ?"
        yield from map(reading.association, connection.execute(asked, (word,)))


def _refused(
    connection: sqlite3.Connection, kind: str, word: str, associations: Iterable[str]
) -> tuple[Refusal, ...]:
    """Returns the refusals of a study, an instance or an association.

    Those of a study are followed by those of its associations whose study could not be read: they
    may be of it.
    """
    if kind == "study":
        found = reading.refusals(connection, "study_key = ?", uid_key(word))
        of_study = tuple(one for one in found if one.study_instance_uid == word)
        others = _refused(connection, "", word, associations)
        unread = tuple(one for one in others if not one.study_instance_uid)
        return (of_study + unread)[:REFUSALS_MAX]
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
    asked = "" if uid in row.studies else uid
    return EnvelopeStory(
        row,
        tuple(one.id for one in brought),
        tuple(reading.instances(origin, asked)) if origin is not None else (),
        reading.attempts(connection, row.number),
        reading.moves(connection, row.number),
        reading.actions(connection, row.number),
        at_upstreams=at_upstreams.of(connection, row.number),
        part_of=parts.whole(connection, row.id),
        split_into=parts.of(connection, row.id),
    )


def _in_order(
    associations: Iterable[Association],
    refused: Iterable[Refusal],
    rejections: Iterable[Rejection],
    of_envelopes: Iterable[Step] = (),
) -> tuple[Step, ...]:
    """Returns the steps of all of these in the order of time."""
    steps = [
        *_steps_of_associations(associations),
        *(Step(one.at, "refusal", "", one.association, one.as_json()) for one in refused),
        *(Step(one.last, "rejection", "", "", one.as_json()) for one in rejections),
        *of_envelopes,
    ]
    return tuple(sorted(steps, key=lambda step: step.at))


def _steps_of_associations(associations: Iterable[Association]) -> Iterator[Step]:
    for one in associations:
        facts = one.as_json()
        yield Step(one.began, "association", "", one.id, facts)
        if one.ended is not None:
            yield Step(one.ended, "ended", "", one.id, facts)


def _steps(story: EnvelopeStory) -> Iterator[Step]:
    row, envelope_id = story.envelope, story.envelope.id
    about = {"studies": row.studies, "calling_ae": row.calling_ae, "origin": row.origin}
    arrivals = list(_arrivals(story))
    opened = min([row.at, *(step.at for step in arrivals)])
    yield Step(opened, "opened", envelope_id, "", about)
    yield from arrivals
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
