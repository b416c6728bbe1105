"""Reads what the files say of an envelope into the ledger: its ticket, its provenance, its place.

Guaranteed: what was known from events stays where the files do not know it. An import that is
repeated changes nothing. With `patient_data = false` a provenance that an earlier setting wrote is
written again without the patient.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from typing import Any

import orjson

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.errors import reason as reason_of
from fastjmix.ledger import at_upstreams, parts, recording
from fastjmix.ledger.places import Places
from fastjmix.ledger.recording import Known
from fastjmix.ledger.rows import Attempt
from fastjmix.ledger.terms import distinct
from fastjmix.spool import Provenance, Recipe, Ticket, ends, provenance
from fastjmix.spool.directories import Directories
from fastjmix.spool.ticket import End

ANSWER_CHARS_MAX = 300


class Importer:
    """Files → rows. `spool.patient_data` False: the patient's columns stay empty."""

    def __init__(self, connection: sqlite3.Connection, spool: Directories) -> None:
        self._connection = connection
        self._spool = spool
        self.places = Places(spool)

    def take(self, envelope_id: str, state: str, at: float, reason: str) -> Known:
        """Reads the files of an envelope that is in `state` now; returns its row.

        `reason` explains a state that differs from the one known. Files that cannot be read
        are looked at again by the next reconciliation. Raises sqlite3.Error.
        """
        if state == "building":
            return self._take_draft(envelope_id, at, reason)
        ticket = self.places.ticket(envelope_id, state) if state != "gone" else None
        origin = self._origin(envelope_id) if state != "gone" else None
        known = recording.find(self._connection, envelope_id)
        if known is None:
            known = recording.add(self._connection, envelope_id, state, _came(ticket, origin, at))
            known = known._replace(state="building")  # the move to its state is to be kept
        values: dict[str, object] = {}
        if ticket is not None:
            values |= self._of_ticket(known.number, ticket)
        if origin is not None:
            values |= recording.put_provenance(self._connection, known.number, origin)
            values["origin"] = origin.origin
        recording.update(self._connection, known.number, values)
        ended = _ended(ticket)
        since, why = (ended[0], ended[1] or reason) if ended is not None else (at, reason)
        recording.move(self._connection, known, state, since, why)
        return known._replace(state=state)

    def _origin(self, envelope_id: str) -> Provenance | None:
        """Returns what the setting permits of a provenance, and makes its file say no more."""
        found = self.places.provenance(envelope_id)
        if found is None or self._spool.patient_data:
            return found
        kept = found.without_patient()
        if kept is not found:
            try:
                provenance.write(self._spool, kept)
            except OSError as problem:
                hint = "delete it by hand, if it must not stay; its envelope does not need it"
                path, why = provenance.path_of(self._spool, envelope_id), reason_of(problem)
                log.get().error("provenance_names_patient", path=str(path), why=why, hint=hint)
        return kept

    def _take_draft(self, envelope_id: str, at: float, reason: str) -> Known:
        recipe = self.places.recipe(envelope_id)
        known = recording.find(self._connection, envelope_id)
        if known is None:
            created = recipe.created if recipe is not None and recipe.created else at
            known = recording.add(self._connection, envelope_id, "building", created)
        if recipe is not None:
            recording.index_uids(self._connection, known.number, [recipe.study])
            values = {
                "pipeline": recipe.pipeline,
                "upstream": recipe.upstream_names,
                "calling_ae": recipe.calling_ae,
                "studies": _json(distinct([recipe.study])),
                **_route(recipe),
            }
            recording.update(self._connection, known.number, values)
        recording.move(self._connection, known, "building", at, reason)
        return known._replace(state="building")

    def _of_ticket(self, number: int, ticket: Ticket) -> dict[str, object]:
        recording.index_uids(self._connection, number, ticket.studies)
        for attempt in _attempts(ticket, self._spool):
            asked = "SELECT 1 FROM attempts WHERE envelope = ? AND outcome = ? AND upstream = ?"
            had = self._connection.execute(
                asked, (number, attempt.outcome, attempt.upstream)
            ).fetchone()
            if had is None:
                recording.add_attempt(self._connection, number, attempt)
        at_upstreams.put(self._connection, number, ticket, self._ends(ticket))
        parts.put(self._connection, number, ticket)
        return {
            "pipeline": ticket.pipeline,
            "upstream": ticket.upstream_names,
            "calling_ae": ticket.calling_ae,
            "sealed_at": ticket.sealed_at,
            "instances": ticket.instances,
            "bytes": ticket.size_bytes,
            "studies": _json(distinct(ticket.studies)),
            **_route(ticket),
        }

    def _ends(self, ticket: Ticket) -> Mapping[str, End]:
        """Returns the ends of an envelope, those of one in outbox/ too."""
        if ticket.receipt is None and ticket.refusal is None:
            with contextlib.suppress(OSError, DamagedTicket):
                return ends.read(self._spool, ticket)
        return ticket.ends


def _json(words: tuple[str, ...]) -> str:
    return orjson.dumps(words).decode()


def _route(routed: Ticket | Recipe) -> dict[str, object]:
    """Returns the columns that say how an envelope was routed."""
    return {"rule": routed.rule, "priority": routed.priority, "tags": _json(routed.tags)}


def _came(ticket: Ticket | None, origin: Provenance | None, at: float) -> float:
    """Returns when an envelope was opened, as far as the files know it."""
    arrived = origin.instances if origin is not None else ()
    arrivals = [one.arrived for one in arrived if one.arrived]
    if arrivals:
        return min(arrivals)
    return ticket.sealed_at if ticket is not None else at


def _ended(ticket: Ticket | None) -> tuple[float, str] | None:
    """Returns when and why an envelope left outbox/, from its receipt or refusal."""
    if ticket is None or (end := ticket.refusal or ticket.receipt) is None:
        return None
    at, why = end.get("at"), "delivered"
    if ticket.refusal:
        why = end.get("reason") or end.get("why") or ""
    return (float(at), str(why)) if isinstance(at, int | float) else None


def _attempts(ticket: Ticket, spool: Directories) -> list[Attempt]:
    """Returns the attempts that ended the envelope's way, from the records beside it."""
    found = []
    one = {"refusal": ticket.refusal, "receipt": ticket.receipt}
    ends_of: Mapping[str, Mapping[str, Mapping[str, Any] | None]]
    ends_of = ticket.ends or {ticket.upstream_names: one}
    for name, answers in ends_of.items():
        for outcome, kind in (("refused", "refusal"), ("delivered", "receipt")):
            end = answers.get(kind)
            if end is None or not isinstance(end.get("at"), int | float):
                continue
            attempt = _attempt(ticket, name, outcome, end)
            found.append(attempt if spool.patient_data else attempt.without_answer())
    return found


def _attempt(ticket: Ticket, upstream: str, outcome: str, end: Mapping[str, Any]) -> Attempt:
    at, status = float(end["at"]), end.get("status")
    return Attempt(
        began=at,
        last=at,
        times=1,
        upstream=upstream,
        seconds=0.0,
        bytes=ticket.size_bytes,
        outcome=outcome,
        status=status if isinstance(status, int) else None,
        reason=str(end.get("reason") or end.get("why") or ""),
        answer=str(end.get("said") or end.get("body") or "")[:ANSWER_CHARS_MAX],
    )
