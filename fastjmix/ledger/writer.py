"""Applies events to the ledger, a transaction for each batch.

Guaranteed: a batch is written whole or not at all. An event that is not what kinds.py says changes
nothing, or less than it could; it never stops the others.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson

from fastjmix.failpoints import reach
from fastjmix.ledger import at_upstreams, kinds, recording
from fastjmix.ledger.imports import Importer
from fastjmix.ledger.kinds import Event, count, seconds, text
from fastjmix.ledger.recording import Known
from fastjmix.ledger.repeats import Repeats
from fastjmix.ledger.rows import Attempt
from fastjmix.ledger.terms import distinct, host, uid_key
from fastjmix.spool import AssociationFacts
from fastjmix.spool.directories import Directories

MOVED_TO: Final = frozenset({"outbox", "held", "sent", "rejected", "gone"})

MOVED_BY: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "hold": (("outbox",), "held"),
    "release": (("held",), "outbox"),
    "requeue": (("rejected",), "outbox"),
    "retry": (("held",), "outbox"),
}
"""From which states an action takes an envelope, and to which one. The directories are not asked:
the envelope may be further on by now, and events of that follow."""

REFUSALS_MAX: Final = 1000
"""Refusals of one association that are kept one by one; its row counts all of them."""

DISCARDED: Final = "0000"
"""The status of an instance that was answered with Success, and that a rule kept nowhere."""


class Writer:
    """Events → rows. `connection` is the only one that writes."""

    def __init__(
        self, connection: sqlite3.Connection, storage: Path, *, patient_data: bool = True
    ) -> None:
        self.connection = connection
        spool = Directories(storage, create=False, patient_data=patient_data)
        spool.owner = "ledger"
        self.patient_data = patient_data
        self.importer = Importer(connection, spool)
        self._repeats = Repeats(connection)
        self._apply: Mapping[str, Callable[[Event, float], None]] = {
            "association": self._association,
            "rejection": self._rejection,
            "refusal": self._refusal,
            "decision": self._decision,
            "opened": self._opened,
            "sealed": self._read,
            "changed": self._read,
            "posted": self._posted,
            "attempt": self._attempt,
            "moved": self._moved,
            "action": self._action,
            "error": self._error,
        }

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commits at the end, or undoes all of it. Raises sqlite3.Error."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            reach("ledger.written")
            self.connection.execute("COMMIT")
        except BaseException:
            self._repeats.forget()  # their rows may not be there
            with contextlib.suppress(sqlite3.Error):  # SQLite may have undone it itself
                self.connection.execute("ROLLBACK")
            raise

    def apply(self, events: Iterable[Event]) -> None:
        """Writes a batch. Raises sqlite3.Error."""
        with self.transaction():
            for event in events:
                at = seconds(event, "at")
                if (write := self._apply.get(text(event, "kind"))) is not None and at is not None:
                    write(event, at)

    # -- associations ----------------------------------------------------------------------------

    def _association(self, event: Event, at: float) -> None:
        association_id = text(event, "id", 64)
        if not association_id:
            return
        values: dict[str, object] = {"id": association_id}
        for name in ("calling_ae", "called_ae", "peer", "implementation_uid", "how"):
            values[name] = text(event, name, 256)
        values["implementation_version"] = text(event, "implementation_version", 64)
        values["began"] = _or(seconds(event, "began"), at)
        values["ended"] = _or(seconds(event, "ended"), at)
        for name in ("stored", "refused", "bytes", "pdu_bytes"):
            values[name] = count(event, name)
        values["seconds"] = seconds(event, "seconds") or 0.0
        values["p50_ms"], values["p99_ms"] = seconds(event, "p50_ms"), seconds(event, "p99_ms")
        values["waits"] = _json(kinds.counts(event, "waits", float))
        values["statuses"] = _json(kinds.counts(event, "statuses", int))
        recording.put_association(self.connection, values)

    def _rejection(self, event: Event, at: float) -> None:
        peer = text(event, "peer", 256)
        values = (text(event, "calling_ae", 64), text(event, "called_ae", 64))
        why = text(event, "why")
        known = ("rejection", *values, host(peer), why)
        times = 1 + count(event, "left_out")
        if not self._repeats.count("rejections", known, at, times):
            asked = (
                "INSERT INTO rejections (at, last, times, calling_ae, called_ae, peer, why)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            made = self.connection.execute(asked, (at, at, times, *values, peer, why)).lastrowid
            self._repeats.remember(known, made, at)

    def _decision(self, event: Event, at: float) -> None:
        """Keeps what a rule discarded; what one rejected is known by its refusal."""
        if text(event, "action", 16) == "discard":
            why = f"discarded by rule {text(event, 'rule', 64)}"
            self._refusal({**event, "status": DISCARDED, "why": why}, at)

    def _refusal(self, event: Event, at: float) -> None:
        association = text(event, "association", 64)
        asked = "SELECT count(*) FROM refusals WHERE association = ?"
        if self.connection.execute(asked, (association,)).fetchone()[0] >= REFUSALS_MAX:
            return
        instance, study = text(event, "sop_instance_uid"), text(event, "study_instance_uid")
        asked = (
            "INSERT INTO refusals (at, association, instance_key, study_key, sop_instance_uid,"
            " sop_class_uid, study_instance_uid, status, why) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        keys = uid_key(instance), uid_key(study)
        uids = instance, text(event, "sop_class_uid"), study
        said = text(event, "status", 16), text(event, "why")
        self.connection.execute(asked, (at, association, *keys, *uids, *said))

    # -- envelopes -------------------------------------------------------------------------------

    def _known(self, event: Event, at: float) -> Known | None:
        """Returns the row of an event's envelope; None without an id.

        Where no event has brought its files yet, they are read.
        """
        envelope_id = kinds.envelope_id(event)
        if envelope_id is None:
            return None
        known = recording.find(self.connection, envelope_id)
        if known is not None and known.read:
            return known
        return self.importer.take(envelope_id, self.importer.places.state(envelope_id), at, "")

    def _opened(self, event: Event, at: float) -> None:
        envelope_id = kinds.envelope_id(event)
        if envelope_id is None:
            return
        known = recording.find(self.connection, envelope_id)
        if known is None:
            known = recording.add(self.connection, envelope_id, "building", at)
            values = {name: text(event, name) for name in ("calling_ae", "pipeline", "upstream")}
            study = kinds.study(event)
            if not self.patient_data:
                study = study.without_patient()
            values |= recording.put_study(self.connection, known.number, study)
            studies = distinct([text(event, "study_instance_uid")])
            values["studies"] = _json(studies)
            recording.update(self.connection, known.number, values)
            recording.index_uids(self.connection, known.number, studies)
        association = text(event, "association", 64)
        if association:
            facts = AssociationFacts(association, text(event, "calling_ae"), began=at)
            number = recording.put_known_association(self.connection, facts)
            recording.link(self.connection, known.number, number)

    def _read(self, event: Event, at: float) -> None:
        """Reads the files of an envelope, wherever it has come to since."""
        envelope_id = kinds.envelope_id(event)
        if envelope_id is not None:
            state = self.importer.places.state(envelope_id)
            self.importer.take(envelope_id, state, at, "")

    def _posted(self, event: Event, at: float) -> None:
        self._read(event, at)
        known = self._known(event, at)
        if known is not None:
            values = {"peer": host(text(event, "peer", 256)), "origin": "post"}
            recording.update(self.connection, known.number, values)

    def _attempt(self, event: Event, at: float) -> None:
        known = self._known(event, at)
        if known is None:
            return
        status = event.get("status")
        began = _or(seconds(event, "began"), at)
        attempt = Attempt(
            began=began,
            last=began,
            times=1,
            upstream=text(event, "upstream"),
            seconds=seconds(event, "seconds") or 0.0,
            bytes=count(event, "bytes"),
            outcome=text(event, "outcome", 32),
            status=status if type(status) is int and 0 <= status < 1000 else None,
            reason=text(event, "reason"),
            answer=text(event, "answer", 300),
        )
        kept = attempt if self.patient_data else attempt.without_answer()
        recording.add_attempt(self.connection, known.number, kept)
        at_upstreams.note(self.connection, known.number, attempt)

    def _moved(self, event: Event, at: float) -> None:
        known, state = self._known(event, at), text(event, "state", 16)
        if known is None or state not in MOVED_TO:
            return
        recording.move(self.connection, known, state, at, text(event, "reason"))
        if state in ("sent", "rejected") and not recording.has_ended(self.connection, known.number):
            envelope_id = text(event, "envelope")  # the event of its attempt was lost
            if self.importer.places.state(envelope_id) == state:
                self.importer.take(envelope_id, state, at, "")

    # -- people and errors -------------------------------------------------------------------------

    def _action(self, event: Event, at: float) -> None:
        named = event.get("envelopes")
        ids = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
        said = [text(event, name) for name in ("actor", "action", "why", "result")]
        asked = (
            "INSERT INTO actions (at, actor, action, why, result, envelopes, more)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        made = self.connection.execute(asked, (at, *said, _json(ids), count(event, "more")))
        asked = "INSERT OR IGNORE INTO action_envelopes (envelope, action) VALUES (?, ?)"
        for envelope_id in ids:
            known = recording.find(self.connection, envelope_id)
            if known is not None:
                self.connection.execute(asked, (known.number, made.lastrowid))
                if (change := MOVED_BY.get(said[1])) is not None and known.state in change[0]:
                    why = f"{said[1]} by {said[0]}" + (f": {said[2]}" if said[2] else "")
                    recording.move(self.connection, known, change[1], at, why)

    def _error(self, event: Event, at: float) -> None:
        said = (text(event, "process", 64), text(event, "event", 64), text(event, "text"))
        known = ("error", *said)
        if not self._repeats.count("errors", known, at):
            asked = "INSERT INTO errors (at, last, process, event, text) VALUES (?, ?, ?, ?, ?)"
            made = self.connection.execute(asked, (at, at, *said)).lastrowid
            self._repeats.remember(known, made, at)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
