"""How an envelope stands at each of several upstreams, as lists and the page show it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fastjmix.spool import Ends, Spool, ends
from fastjmix.spool.at_upstreams import at_upstreams, in_words
from fastjmix.spool.entries import read_entries
from fastjmix.spool.export import export
from fastjmix.spool.holds import Holds
from fastjmix.spool.selection import Selection, select
from fastjmix.spool.standing import standing
from tests.spool.test_ending import REFUSED, TAKEN, sealed


def rows(spool: Spool, **conditions: object) -> list[str]:
    selection = replace(Selection(), **conditions)  # type: ignore[arg-type]
    entries = read_entries(spool, selection.places)
    return [in_words(row.at_upstreams) for row in select(spool, entries, selection)]


def test_each_upstream_has_a_state(spool: Spool) -> None:
    one = sealed(spool, "a", "b", "c")
    assert at_upstreams(spool, sealed(spool, "a").id, "outbox") == ()
    Ends(spool).record(one.id, {"a": {"receipt": {"status": 201, "at": 7.0}}})
    Holds(spool).put(one.id, "a test", "", 1)
    found = at_upstreams(spool, one.id, "outbox")
    assert in_words(found) == "a sent, b held, c waiting"
    assert (found[0]["at"], found[1]["at"]) == (7.0, None)
    assert rows(spool, upstream="b") == ["a sent, b held, c waiting"]
    assert rows(spool, upstream="x") == []
    assert rows(spool, states=("held",)) == []
    assert rows(spool, on_hold=True) == ["a sent, b held, c waiting"]


def test_the_reason_names_each_that_refused(spool: Spool) -> None:
    one, recorded = sealed(spool, "a", "b", "c"), Ends(spool)
    recorded.record(
        one.id, {"b": REFUSED, "c": {"refusal": {"status": 413, "reason": "too large"}}}
    )
    assert recorded.record(one.id, {"a": TAKEN}) == "rejected"
    found = standing(spool, one.id)
    assert found is not None
    assert (found.reason, found.damage) == ("b: HTTP 400: no; c: HTTP 413: too large", "")
    assert rows(spool) == ["a sent, b refused, c refused"]
    assert at_upstreams(spool, one.id, "rejected")[2]["reason"] == "HTTP 413: too large"
    (spool.rejected / f"{one.id}.json").write_bytes(b"no record")
    assert at_upstreams(spool, one.id, "rejected") == ()


def test_a_copy_for_another_node_goes_to_those_that_have_not_taken_it(
    spool: Spool, tmp_path: Path
) -> None:
    one = sealed(spool, "a", "b")
    Ends(spool).record(one.id, {"a": TAKEN})
    export(spool, one.id, tmp_path / "copy")
    copy = Spool(tmp_path / "copy").ticket("outbox", one.id)
    assert ends.pending(copy, ends.read(Spool(tmp_path / "copy"), copy)) == ("b",)
