"""api/study_index.py through the API's study query: the envelopes found follow the disk."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.spool import Ends, Retention
from tests.support.apis import (
    BASE,
    OTHER,
    Gateway,
    in_thread,
    running,
)
from tests.support.envelopes import ID, STUDY, envelope


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as found:
        yield found


def test_the_newest_of_a_study(gateway: Gateway) -> None:
    query = f"{BASE}?studyInstanceUid={STUDY}"
    first, second, third = envelope(ID), envelope(OTHER), envelope(study="1.9")
    gateway.put(first, sealed_at=2e9)
    gateway.put(second, id=OTHER, sealed_at=1e9, instances=7, studies=("1.9", STUDY))
    gateway.put(third, id=str(uuid.uuid4()), studies=("1.9",))
    gateway.spool.deliver(OTHER, {"status": 201})
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/zip"}):
        assert gateway.ask("GET", query, headers=headers).body == first
    listed = gateway.get(query, Accept="application/json")
    assert listed.status == 200
    assert [entry["id"] for entry in listed.json["jmixEnvelopes"]] == [ID, OTHER]
    assert listed.json["jmixEnvelopes"][1] == {
        "id": OTHER,
        "studyInstanceUid": STUDY,
        "state": "sent",
        "reason": None,
        "ageSecs": listed.json["jmixEnvelopes"][1]["ageSecs"],
        "instances": 7,
        "sizeBytes": len(second),
        "sealedAt": "2001-09-09T01:46:40Z",
    }
    assert gateway.ask("HEAD", query).headers["Content-Length"] == str(len(first))
    assert gateway.get(query, Accept="text/html").status == 406
    assert (
        len(
            gateway.get(f"{BASE}?studyInstanceUid=1.9", Accept="application/json").json[
                "jmixEnvelopes"
            ]
        )
        == 2
    )


def test_the_list_says_how_an_envelope_stands_at_each_upstream(gateway: Gateway) -> None:
    gateway.put(envelope(ID), upstreams=("a", "b"))
    Ends(gateway.spool).record(ID, {"b": {"refusal": {"status": 400, "reason": "no"}}})
    query = f"{BASE}?studyInstanceUid={STUDY}&format=json"
    (listed,) = gateway.get(query).json["jmixEnvelopes"]
    assert listed["state"] == "outbox"
    assert listed["upstreams"] == [
        {"name": "a", "state": "waiting", "reason": None},
        {"name": "b", "state": "refused", "reason": "HTTP 400: no"},
    ]


def test_a_study_parameter_is_needed(gateway: Gateway) -> None:
    for query in (
        "",
        "?studyInstanceUid=",
        "?studyinstanceuid=1",
        "?studyInstanceUid=1&studyInstanceUid=2",
    ):
        answer = gateway.get(f"{BASE}{query}")
        assert answer.status == 400
        assert "studyInstanceUid" in answer.json["error"]


def test_the_index_follows_the_directories(gateway: Gateway) -> None:
    query = f"{BASE}?studyInstanceUid={STUDY}"

    def states() -> dict[str, str]:
        answer = gateway.get(query, Accept="application/json")
        found = answer.json.get("jmixEnvelopes", [])
        return {entry["id"]: entry["state"] for entry in found}

    assert states() == {}
    gateway.put(envelope(ID))
    assert states() == {ID: "outbox"}
    gateway.put(envelope(OTHER), id=OTHER)
    gateway.spool.deliver(ID, {"status": 201})
    assert states() == {ID: "sent", OTHER: "outbox"}
    gateway.spool.withdraw(OTHER)
    assert states() == {ID: "sent"}
    # a ticket is read once: no later query and no change beside it opens it again
    (gateway.spool.sent / f"{ID}.json").unlink()
    gateway.put(envelope(OTHER), id=OTHER)
    assert states() == {ID: "sent", OTHER: "outbox"}
    gateway.spool.path("sent", ID).unlink()
    assert states() == {OTHER: "outbox"}


def test_a_damaged_ticket_hides_only_its_envelope(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    gateway.put(envelope(OTHER), id=OTHER)
    (gateway.spool.outbox / f"{OTHER}.json").write_bytes(b"{")
    (gateway.spool.outbox / "no-envelope.zip").write_bytes(b"")
    answer = gateway.get(f"{BASE}?studyInstanceUid={STUDY}", Accept="application/json")
    assert [entry["id"] for entry in answer.json["jmixEnvelopes"]] == [ID]


def test_queries_while_envelopes_come_and_go(gateway: Gateway) -> None:
    """An envelope that stays is found by each query, whatever else moves."""
    gateway.put(envelope(ID))
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            other = str(uuid.uuid4())
            gateway.put(envelope(other), id=other, sealed_at=1.0)
            gateway.spool.deliver(other, {"status": 201})
            Retention(gateway.spool, -1.0).run()

    with in_thread(churn):
        try:
            for _ in range(30):
                answer = gateway.get(f"{BASE}?studyInstanceUid={STUDY}")
                assert answer.status == 200
                assert ID in answer.headers["Content-Disposition"]
        finally:
            done.set()
