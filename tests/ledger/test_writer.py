"""ledger/writer.py: events become rows, whole batches or none, and odd events harm nothing."""

from __future__ import annotations

import json
import sqlite3
import uuid
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ledger.queries import Search
from fastjmix.ledger.recording import ATTEMPTS_MAX, MOVES_MAX
from fastjmix.ledger.writer import REFUSALS_MAX
from tests.support.storages import MORNING, Storage, association, event


def test_an_envelope_from_its_opening_to_its_end(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope()
    about = {"study_instance_uid": "1.2.3", "calling_ae": "CT1", "association": "run-1"}
    tried = {
        "envelope": one, "upstream": "up", "bytes": 3000, "seconds": 0.2, "answer": "",
    }  # fmt: skip
    with storage.writer() as writer:
        writer.apply([event("opened", MORNING - 1, envelope=one, pipeline="p", **about)])
        row = storage.ledger.envelope(one)
        assert row is not None
        assert (row.state, row.studies, row.instances) == ("building", ("1.2.3",), 0)
        writer.apply(
            [
                association(),
                event("sealed", MORNING + 10, envelope=one),
                event("attempt", MORNING + 11, outcome="retry", status=503, reason="busy", **tried),
                event("attempt", MORNING + 12, outcome="retry", status=503, reason="busy", **tried),
                event("attempt", MORNING + 13, outcome="delivered", status=201, reason="", **tried),
                event("moved", MORNING + 13.5, envelope=one, state="sent", reason="delivered"),
            ]
        )
    row = storage.ledger.envelope(one)
    assert row is not None
    assert (row.state, row.at, row.since) == ("sent", MORNING - 1, MORNING + 13.5)
    assert (row.instances, row.bytes, row.peer) == (3, 3000, "10.0.0.7")
    (story,) = storage.ledger.trace(one).envelopes
    assert [(a.outcome, a.times) for a in story.attempts] == [("retry", 2), ("delivered", 1)]
    assert [(m.state, m.reason) for m in story.moves] == [("sent", "delivered")]
    found = storage.ledger.association("run-1")
    assert found is not None
    assert (found.how, found.waits["peer"], found.statuses) == ("released", 0.4, {"0000": 3})


def test_the_record_says_what_a_lost_event_of_an_attempt_said(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope()
    with storage.writer() as writer:
        writer.apply([event("sealed", MORNING + 10, envelope=one)])
        storage.move(one, "outbox", "sent")
        record = tmp_path / "sent" / f"{one}.json"
        receipt = {"status": 201, "at": MORNING + 13}
        record.write_text(json.dumps({**json.loads(record.read_text()), "receipt": receipt}))
        writer.apply([event("moved", MORNING + 13.5, envelope=one, state="sent", reason="r")])
    (story,) = storage.ledger.trace(one).envelopes
    assert [(a.outcome, a.status, a.began) for a in story.attempts] == [
        ("delivered", 201, MORNING + 13)
    ]
    assert (story.envelope.state, story.envelope.since) == ("sent", MORNING + 13.5)


def test_a_batch_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        writer.connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON errors BEGIN SELECT RAISE(ABORT, 'full'); END"
        )
        with pytest.raises(sqlite3.Error, match="full"):
            writer.apply([association(), event("error", process="p", event="e", text="t")])
        assert storage.ledger.association("run-1") is None
        writer.apply([association()])
    assert storage.ledger.association("run-1") is not None


def test_a_posted_envelope_has_its_peer(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope()
    (tmp_path / "provenance" / f"{one}.json").unlink()
    with storage.writer() as writer:
        writer.apply([event("posted", envelope=one, peer="[fe80::1]:999")])
    (row,) = storage.ledger.search(Search(peer="fe80::1")).envelopes
    assert (row.id, row.origin, row.studies) == (one, "post", ("1.2.3",))


def test_what_comes_again_is_counted_in_one_row(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    said = {"calling_ae": "X", "called_ae": "FASTJMIX", "why": "calling AE title not recognized"}
    with storage.writer() as writer:
        for second in range(3):
            peer = f"10.0.0.9:{second}"
            writer.apply([event("rejection", MORNING + second, peer=peer, **said)])
            error = {"process": "uploader", "event": "upstream_held", "text": "401"}
            writer.apply([event("error", MORNING + second, **error)])
        again = event("rejection", MORNING + 5000, peer="10.0.0.9:7", left_out=6, **said)
        writer.apply([again])
    later, first = storage.ledger.recent_rejections()
    assert (first.times, first.at, first.last) == (3, MORNING, MORNING + 2)
    assert (later.times, later.at) == (7, MORNING + 5000)
    (found,) = storage.ledger.recent_errors()
    assert (found.event, found.times) == ("upstream_held", 3)


def test_an_association_without_an_end_has_its_facts(tmp_path: Path) -> None:
    """The receiver died: only the packer told of it, and the provenance knows the rest."""
    storage = Storage(tmp_path)
    one = storage.envelope()
    with storage.writer() as writer:
        opened: dict[str, Any] = {
            "envelope": one, "study_instance_uid": "1.2.3", "association": "run-1"
        }  # fmt: skip
        writer.apply([event("opened", calling_ae="CT1", **opened)])
        bare = storage.ledger.association("run-1")
        assert bare is not None
        assert (bare.calling_ae, bare.peer) == ("CT1", "")
        writer.apply([event("sealed", envelope=one)])
        found = storage.ledger.association("run-1")
        assert found is not None
        assert (found.peer, found.called_ae) == ("10.0.0.7:40000", "FASTJMIX")
        assert (found.began, found.ended) == (MORNING - 5, None)
        writer.apply([association(1), event("sealed", envelope=one)])
    ended = storage.ledger.association("run-1")
    assert ended is not None
    assert ended.ended == MORNING


def test_refusals_of_one_association_are_bounded(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    said: dict[str, Any] = {
        "association": "run-1",
        "study_instance_uid": "1.9",
        "status": "A700",
        "why": "full",
    }
    refused = [
        event("refusal", sop_instance_uid=f"1.9.{n}", **said) for n in range(REFUSALS_MAX + 5)
    ]
    with storage.writer() as writer:
        writer.apply(refused)
    assert len(storage.ledger.trace("1.9").refusals) == REFUSALS_MAX


def test_what_a_rule_discarded_is_found_by_its_uids(tmp_path: Path) -> None:
    """A rejected instance is known by its refusal already."""
    storage = Storage(tmp_path)
    said: dict[str, Any] = {"association": "run-1", "study_instance_uid": "1.9"}
    said["sop_instance_uid"] = "1.9.1"
    with storage.writer() as writer:
        for action in ("discard", "reject", "other", 7):
            writer.apply([event("decision", rule="shots", action=action, **said)])
    for word in ("1.9", "1.9.1"):
        (found,) = storage.ledger.trace(word).refusals
        assert (found.status, found.why) == ("0000", "discarded by rule shots")
        assert found.association == "run-1"


def test_attempts_of_one_envelope_are_bounded(tmp_path: Path) -> None:
    """An upstream that changes its mind all the time, and a person who does."""
    storage = Storage(tmp_path)
    one = storage.envelope()
    said: dict[str, Any] = {"envelope": one, "upstream": "up", "reason": "", "answer": ""}
    tried = [
        event("attempt", MORNING + n, outcome="retry", status=500 + n % 2, **said)
        for n in range(ATTEMPTS_MAX + 10)
    ]
    moved = [
        event("moved", MORNING, envelope=one, state=("held", "outbox")[n % 2], reason="")
        for n in range(MOVES_MAX + 10)
    ]
    ended = event("attempt", MORNING + 9999, outcome="delivered", status=201, **said)
    with storage.writer() as writer:
        writer.apply([*tried, *moved, ended])
    (story,) = storage.ledger.trace(one).envelopes
    assert len(story.attempts) == ATTEMPTS_MAX + 1
    assert story.attempts[-1].outcome == "delivered"
    assert len(story.moves) == MOVES_MAX


def test_an_action_is_in_the_story_of_its_envelopes(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope(state="rejected")
    with storage.writer() as writer:
        done: dict[str, Any] = {
            "actor": "uid 1000 anna",
            "action": "requeue",
            "result": "done",
            "more": 2,
        }
        writer.apply([event("sealed", envelope=one)])
        storage.move(one, "rejected", "outbox")
        writer.apply([event("action", envelopes=[one, str(uuid.uuid4())], **done)])
    (story,) = storage.ledger.trace(one).envelopes
    assert [(a.actor, a.action, a.more) for a in story.actions] == [("uid 1000 anna", "requeue", 2)]
    assert story.envelope.state == "outbox"
    assert story.moves[-1].reason == "requeue by uid 1000 anna"


def test_an_envelope_that_was_refused_again_is_rejected_by_the_upstream(tmp_path: Path) -> None:
    """The event of the action comes when the envelope is back in rejected/ already."""
    storage = Storage(tmp_path)
    one = storage.envelope(state="rejected")
    action = event("action", actor="uid 0", action="requeue", envelopes=[one], result="done")
    again = event("moved", MORNING + 1, envelope=one, state="rejected", reason="HTTP 400")
    with storage.writer() as writer:
        writer.apply([event("sealed", envelope=one), action, again])
    (story,) = storage.ledger.trace(one).envelopes
    moves = [(move.state, move.reason) for move in story.moves[-2:]]
    assert moves == [("outbox", "requeue by uid 0"), ("rejected", "HTTP 400")]


@pytest.mark.parametrize("patient_data", [True, False])
def test_an_envelope_is_found_by_its_patient_while_it_is_packed(
    tmp_path: Path, patient_data: bool
) -> None:
    """The facts of its first instance count until the seal, and its documents from then on."""
    storage = Storage(tmp_path)
    one = storage.envelope("1.2.3")
    said = {"accession_number": "A-9", "patient_id": "P-9", "patient_name": "First^Name"}
    opened = event("opened", MORNING - 1, envelope=one, study_instance_uid="1.2.3", study=said)
    with storage.writer(patient_data=patient_data) as writer:
        writer.apply([opened])
        for word in ("A-9", "P-9", "first"):
            found = storage.ledger.trace(word).envelopes
            assert [row.envelope.state for row in found] == ["building"] * patient_data
        writer.apply([event("sealed", envelope=one)])
    assert storage.ledger.trace("first").kind == ""
    assert (storage.ledger.trace("yamada").kind == "patient_name") is patient_data


ODD: list[dict[str, Any]] = [
    {"kind": "association", "at": 1.0},
    {"kind": "association", "at": 1.0, "id": "a", "statuses": [1], "bytes": 1 << 80, "began": "x"},
    {"kind": "attempt", "at": 1.0, "envelope": "../x"},
    {"kind": "attempt", "at": 1.0, "envelope": str(uuid.UUID(int=1)), "status": True, "bytes": -1},
    {"kind": "moved", "at": 1.0, "envelope": str(uuid.UUID(int=2)), "state": "x' OR 1=1"},
    {"kind": "opened", "at": "now", "envelope": str(uuid.UUID(int=3))},
    {"kind": "opened", "at": 1.0, "envelope": str(uuid.UUID(int=3)), "study_instance_uid": 7},
    {"kind": "sealed", "at": 1.0, "envelope": None},
    {"kind": "posted", "at": 1.0, "envelope": str(uuid.UUID(int=4)), "peer": {}},
    {"kind": "action", "at": 1.0, "envelopes": [1, None, "x\0"]},
    {
        "kind": "refusal",
        "at": 1.0,
        "sop_instance_uid": "\udcff".encode("utf-8", "replace").decode(),
    },
    {"kind": "rejection", "at": 1.0, "why": None},
    {"kind": "error", "at": float("inf")},
    {"kind": "unknown", "at": 1.0},
]


def test_odd_events_stop_no_others(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        writer.apply([*ODD, association(7)])
    assert storage.ledger.association("run-7") is not None
