"""Reads the facts of the events that processes send to the ledger (ipc/events.py).

Every event has `kind`, and `at` in Unix seconds; other times are Unix seconds, too. A peer is
"address:port". A fact that is missing counts as unknown; further facts are passed over.

    association  an association has ended. id, calling_ae, called_ae, peer, implementation_uid,
                 implementation_version, began, ended, how, stored, refused (instances), bytes,
                 seconds (of data transfer), pdu_bytes (the largest PDU sent to us), waits (seconds
                 by cause: peer, packer, disk), p50_ms and p99_ms (of responses), statuses (how many
                 responses had each status, as "0000"), left_out (how many that brought no instance
                 were not told of since the one before)
    rejection    an association was rejected. calling_ae, called_ae, peer, why, left_out (how many
                 were not told of since the one before)
    refusal      an instance got a failure. association, sop_instance_uid, sop_class_uid,
                 study_instance_uid ("" unknown), status ("A700"), why
    decision     an instance was not kept, by a rule. association, rule, action (reject, discard),
                 sop_instance_uid, sop_class_uid, study_instance_uid, left_out (how many were not
                 told of since the one before). A rejected one has a refusal, too
    opened       an envelope was opened. envelope, study_instance_uid, calling_ae, pipeline,
                 upstream, association, study (what its first instance says, named as in
                 provenance)
    sealed       an envelope is in outbox/. envelope; the rest is read from its ticket and from
                 provenance/<id>.json
    changed      the ticket of an envelope was written again. envelope; the rest is read from its
                 files
    posted       an envelope came by POST and is in outbox/. envelope, peer
    attempt      an attempt to deliver is over. envelope, upstream, began, seconds, bytes, outcome
                 (delivered, retry, held, refused, verify), status (HTTP's, null: no answer),
                 reason, answer (an excerpt)
    moved        an envelope's state changed. envelope, state (outbox, held, sent, rejected, gone),
                 reason
    action       a person did something. actor, action, why, envelopes (ids of those for which it
                 was done), more (how many are not named), result
    error        an error went to the log. process, event (the log's name), text

An association's id is `<run>-<number>`, the run of the supervisor and the number in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Final

from fastjmix.ipc.events import Event
from fastjmix.jmix.ids import is_id
from fastjmix.spool.provenance import StudyFacts

__all__ = ["Event", "count", "counts", "envelope_id", "seconds", "text"]

_NUMBER_MAX: Final = 1 << 62


def text(event: Event, name: str, most: int = 1024) -> str:
    """Returns a text, cut to `most` characters; "" for anything else."""
    value = event.get(name)
    return value[:most] if isinstance(value, str) else ""


def seconds(event: Event, name: str) -> float | None:
    """Returns a time or a duration; None for anything else."""
    value = event.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value < _NUMBER_MAX else None


def count(event: Event, name: str) -> int:
    """Returns a count; 0 for anything else."""
    value = event.get(name)
    return value if type(value) is int and 0 <= value < _NUMBER_MAX else 0


def envelope_id(event: Event) -> str | None:
    """Returns the id of the envelope that an event is about; None where it has none."""
    value = event.get("envelope")
    return value if isinstance(value, str) and is_id(value) else None


def counts(event: Event, name: str, kind: Callable[[int | float], float]) -> dict[str, float]:
    """Returns a mapping of texts to numbers; entries of other types are left out."""
    value = event.get(name)
    if not isinstance(value, dict):
        return {}
    return {
        str(key)[:64]: kind(one)
        for key, one in value.items()
        if isinstance(one, int | float) and 0 <= one < _NUMBER_MAX
    }


def study(event: Event) -> StudyFacts:
    """Returns what an event says of a study; "" for what it does not say."""
    value = event.get("study")
    told = value if isinstance(value, dict) else {}
    named = told.get("modalities")
    modalities = [one for one in named if isinstance(one, str)] if isinstance(named, list) else []
    names = (one.name for one in fields(StudyFacts) if one.name != "modalities")
    return StudyFacts(**{name: text(told, name) for name in names}, modalities=tuple(modalities))
