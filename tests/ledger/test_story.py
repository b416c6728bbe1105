"""ledger/story.py: a word is recognized, and its story is whole and in order."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from fastjmix.ledger import story
from fastjmix.ledger.reconcile import reconcile
from fastjmix.ledger.story import PEER_MAX, TRACE_MAX
from tests.support.storages import MORNING, Storage, association, event


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A study in two envelopes, and an instance of it that was refused."""
    own = Storage(tmp_path)
    one = own.envelope("1.2.3")
    own.envelope("1.2.3", "sent", at=MORNING + 60)
    refused = {"sop_instance_uid": "1.2.3.1.99", "study_instance_uid": "1.2.3", "status": "A700"}
    tried = {"upstream": "up", "outcome": "held", "status": 401, "reason": "401", "answer": "no"}
    with own.writer() as writer:
        writer.apply(
            [
                event("opened", MORNING - 1, envelope=one, association="run-1"),
                event("refusal", MORNING + 2, association="run-1", why="disk full", **refused),
                event("attempt", MORNING + 20, envelope=one, began=MORNING + 19, **tried),
                association(at=MORNING + 5, began=MORNING - 5, refused=1),
            ]
        )
        list(reconcile(writer))
    return own


@pytest.mark.parametrize(
    ("word", "kind", "envelopes", "parts"),
    [
        ("run-1", "association", 2, 3),
        ("1.2.3", "study", 2, 3),
        ("1.2.3.1", "series", 2, 3),
        ("1.2.3.1.1", "instance", 2, 1),
        ("1.2.3.1.99", "instance", 0, 0),
        ("A-2201", "accession", 2, 3),
        (" P-77 ", "patient_id", 2, 3),
        ("yamada", "patient_name", 2, 3),
        ("山田 太", "patient_name", 2, 3),
        ("1.2", "", 0, 0),
        ("%", "", 0, 0),
        ("", "", 0, 0),
        ("9" * 5000, "", 0, 0),
    ],
)
def test_a_word_is_recognized(
    storage: Storage, word: str, kind: str, envelopes: int, parts: int
) -> None:
    found = storage.ledger.trace(word)
    assert (found.kind, len(found.envelopes)) == (kind, envelopes)
    assert all(len(one.instances) == parts for one in found.envelopes)


def test_the_story_is_in_order(storage: Storage) -> None:
    found = storage.ledger.trace("1.2.3")
    assert [step.kind for step in found.steps] == [
        "association", "opened", "arrived", "refusal", "ended", "sealed", "attempt", "opened",
        "arrived", "sealed", "moved",
    ]  # fmt: skip
    assert [step.at for step in found.steps] == sorted(step.at for step in found.steps)
    (refusal,) = found.refusals
    assert (refusal.status, refusal.why) == ("A700", "disk full")
    assert found.steps[2].facts["instances"] == 3


def test_an_envelope_by_its_id_and_by_its_beginning(storage: Storage) -> None:
    one = storage.ledger.trace("1.2.3").envelopes[0].envelope.id
    for word in (one, one.upper(), one[:8]):
        found = storage.ledger.trace(word)
        assert [story.envelope.id for story in found.envelopes] == [one]
        assert found.kind == "envelope"
    assert storage.ledger.trace(one[:3]).kind == ""


def test_each_instance_has_its_association(storage: Storage) -> None:
    (part,) = storage.ledger.trace("1.2.3.1.1").envelopes[0].instances
    assert (part.association, part.arrived, part.bytes) == ("run-1", MORNING + 0.001, 513)
    assert (part.status, part.kept, part.series_instance_uid) == ("0000", True, "1.2.3.1")


def test_json_has_all_of_it(storage: Storage) -> None:
    found = orjson.loads(orjson.dumps(storage.ledger.trace("1.2.3").as_json()))
    assert found["envelopes"][0]["attempts"][0]["answer"] == "no"
    assert found["envelopes"][0]["patient_id"] == "P-77"
    assert "Yamada" not in str(storage.ledger.trace("1.2.3").as_json(patient=False))


def test_a_long_story_is_cut_and_says_so(tmp_path: Path) -> None:
    own = Storage(tmp_path)
    for number in range(TRACE_MAX + 1):
        own.envelope(f"1.3.{number}", count=1, at=MORNING + number)
    with own.writer() as writer:
        list(reconcile(writer))
    found = own.ledger.trace("P-77")
    assert (len(found.envelopes), found.more) == (TRACE_MAX, True)
    assert found.envelopes[0].envelope.study_instance_uid == "1.3.1"


def crowd(own: Storage, instances: int, envelopes: int, associations: int) -> None:
    """Makes envelopes of one patient, the newest brought by so many associations."""
    made = [own.envelope(f"1.2.{n}", at=MORNING + n, count=instances) for n in range(envelopes)]
    with own.writer() as writer:
        list(reconcile(writer))
        writer.apply(
            event("opened", MORNING + n, envelope=made[-1], association=f"run-{n}")
            for n in range(2, associations + 1)
        )


@pytest.mark.fault("S36")
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_instances_of_a_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int) -> None:
    monkeypatch.setattr(story, "PARTS_MAX", 12)
    own = Storage(tmp_path)
    crowd(own, instances=12 // 3, envelopes=2, associations=1)
    own.envelope("1.2.9", at=MORNING - 9, count=4 + more)
    with own.writer() as writer:
        list(reconcile(writer))
    found = own.ledger.trace("P-77")
    assert [len(one.instances) for one in found.envelopes] == [4 + min(more, 0), 4, 4]
    assert [one.left_out for one in found.envelopes] == [max(more, 0), 0, 0]
    arrived = [step.facts["instances"] for step in found.steps if step.kind == "arrived"]
    assert arrived == [4 + more, 4, 4], "the story itself tells of all"
    assert found.envelopes[0].as_json()["parts_left_out"] == max(more, 0)
    assert len(own.ledger.trace("1.2.9").envelopes[0].instances) == 4 + more


@pytest.mark.fault("S36")
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_associations_of_a_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    monkeypatch.setattr(story, "ASSOCIATIONS_MAX", 5)
    own = Storage(tmp_path)
    crowd(own, instances=1, envelopes=1, associations=5 + more)
    found = own.ledger.trace("1.2.0")
    assert len(found.associations) == min(5 + more, 5)
    assert found.left_out == found.as_json()["associations_left_out"] == max(more, 0)


@pytest.mark.fault("S36")
def test_refusals_of_a_story(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    with storage.writer() as writer:
        writer.apply(
            event("refusal", MORNING, association="run-1", status="A700", why=str(n))
            for n in range(9)
        )
    assert len(storage.ledger.trace("P-77").refusals) == 10
    monkeypatch.setattr(story, "REFUSALS_MAX", 4)
    assert len(storage.ledger.trace("P-77").refusals) == 4


def test_a_peer_is_known_by_its_latest_associations_and_rejections(tmp_path: Path) -> None:
    """By its title, by the one that it called in vain, and by its address."""
    own = Storage(tmp_path)
    said = {"calling_ae": "CT1", "called_ae": "OLD", "peer": "10.0.0.7:40001"}
    with own.writer() as writer:
        for number in range(PEER_MAX + 1):
            at = MORNING + 60 * number
            writer.apply([association(number, at), event("rejection", at, why=f"{number}", **said)])
        writer.apply([association(99, peer="10.0.0.70:40000", calling_ae="CT10")])
    for word, kind, made in (("CT1", "ae", 20), ("OLD", "ae", 0), ("10.0.0.7", "peer", 20)):
        found = own.ledger.trace(word)
        assert (found.kind, len(found.associations), found.envelopes) == (kind, made, ())
        assert [one.why for one in found.rejections] == [str(n) for n in range(1, PEER_MAX + 1)]
        assert [one.at for one in found.steps] == sorted(one.at for one in found.steps)
    assert own.ledger.trace("10.0.0").kind == ""


def test_a_study_has_the_refusals_whose_study_was_not_read(storage: Storage) -> None:
    unread = event("refusal", MORNING + 3, association="run-1", status="C002", why="cut off")
    other = {**unread, "study_instance_uid": "1.9"}
    with storage.writer() as writer:
        writer.apply([unread, other])
    assert [one.status for one in storage.ledger.trace("1.2.3").refusals] == ["A700", "C002"]
