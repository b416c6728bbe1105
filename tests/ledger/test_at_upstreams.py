"""How an envelope stands at each of several upstreams: from its files, and from events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastjmix.ledger.queries import Search
from fastjmix.ledger.reconcile import reconcile
from fastjmix.spool import Ends, Spool
from tests.support.storages import MORNING, Storage, event


def stands(storage: Storage, envelope_id: str) -> list[tuple[str, str, str]]:
    (story,) = storage.ledger.trace(envelope_id).envelopes
    return [(one.upstream, one.state, one.reason) for one in story.at_upstreams]


def test_files_and_attempts_say_how_an_envelope_stands(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope(upstreams=("a", "b", "c"))
    other = storage.envelope("1.2.4")
    Ends(Spool(tmp_path)).record(one, {"b": {"receipt": {"status": 201, "at": MORNING}}})
    said: dict[str, Any] = {"envelope": one, "bytes": 1, "seconds": 0.5, "answer": ""}
    with storage.writer() as writer:
        list(reconcile(writer))
        assert stands(storage, one) == [
            ("a", "waiting", ""), ("b", "sent", ""), ("c", "waiting", ""),
        ]  # fmt: skip
        refused: dict[str, Any] = {"outcome": "refused", "status": 400, "reason": "no"}
        writer.apply(
            [
                event("attempt", upstream="a", outcome="retry", reason="busy", **said),
                event("attempt", upstream="c", **refused, **said),
            ]
        )
    assert stands(storage, one) == [
        ("a", "waiting", ""), ("b", "sent", ""), ("c", "refused", "no"),
    ]  # fmt: skip
    assert stands(storage, other) == []
    for upstream in ("a", "b", "c"):
        (found,) = storage.ledger.search(Search(upstream=upstream)).envelopes
        assert (found.id, found.upstream) == (one, "a, b, c")
    (found,) = storage.ledger.search(Search(upstream="up")).envelopes
    assert found.id == other


def test_an_envelope_that_all_have_taken(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    taken: dict[str, Any] = {"receipt": {"status": 201, "at": MORNING}}
    ends = {"a": taken, "b": taken}
    one = storage.envelope("1.2.3", "sent", upstreams=("a", "b"), ends=ends, **taken)
    with storage.writer() as writer:
        list(reconcile(writer))
    assert stands(storage, one) == [("a", "sent", ""), ("b", "sent", "")]
    (story,) = storage.ledger.trace(one).envelopes
    assert [(a.upstream, a.outcome) for a in story.attempts] == [
        ("a", "delivered"), ("b", "delivered"),
    ]  # fmt: skip
