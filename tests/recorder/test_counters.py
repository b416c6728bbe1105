"""recorder/counters.py: counts by label, and a bound on the labels."""

from __future__ import annotations

import orjson

from fastjmix.ipc.metric_families import OTHER
from fastjmix.ipc.state_board import STATE_MAX
from fastjmix.recorder.counters import LABELS_MAX, REJECTED, Counters
from tests.support.storages import association, event


def test_events_are_counted_by_their_labels() -> None:
    counters = Counters()
    for _ in range(2):
        counters.count(association(statuses={"0000": 3, "A700": 1}))
    counters.count(association(calling_ae="CT2", how="lost: connection reset", statuses={}))
    for calling_ae in ("CT2", "NOBODY", "NOBODY TOO"):
        counters.count(event("rejection", calling_ae=calling_ae, why="full"))
    counters.count(event("rejection", calling_ae="CT2", why="full", left_out=40))
    counters.count(event("attempt", upstream="up", outcome="held"))
    for left_out in ({}, {"left_out": 7}):
        counters.count(event("decision", rule="shots", action="discard", **left_out))
    counters.count(event("error", process="p"))
    assert counters.rows() == {
        "associations": [
            ["CT1", "released", 2],
            ["CT2", "lost", 1],
            ["CT2", "rejected", 2],
            ["other", "rejected", 42],
        ],
        "instances": [["CT1", "0000", 6], ["CT1", "A700", 2]],
        "attempts": [["up", "held", 1]],
        "rule_decisions": [["shots", "discard", 2], ["other", "other", 7]],
    }


def test_a_peer_that_invents_names_is_counted_as_other() -> None:
    counters = Counters()
    for number in range(3 * LABELS_MAX):
        counters.count(association(calling_ae=f"\x01{number}" * 40, statuses={str(number): 1}))
        counters.count(event("rejection", calling_ae=f"{number}" * 100))
        counters.count(event("attempt", upstream="\x02" * 90 + str(number), outcome=str(number)))
    rows = counters.rows()
    assert all(len(family) <= LABELS_MAX + 1 for family in rows.values())
    assert sum(int(row[-1]) for row in rows["associations"]) == 6 * LABELS_MAX
    assert [OTHER, REJECTED, 3 * LABELS_MAX] in rows["associations"]
    assert len(orjson.dumps(rows)) < STATE_MAX - 1000


def test_associations_that_were_left_out_are_counted() -> None:
    counters = Counters()
    counters.count(association(statuses={}, left_out=40))
    assert counters.rows()["associations"] == [["CT1", "released", 1], [OTHER, OTHER, 40]]
