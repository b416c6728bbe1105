"""ledger/reconcile.py: the ledger says what the directories say, whatever happened before."""

from __future__ import annotations

from pathlib import Path

from fastjmix.ledger.places import Places
from fastjmix.ledger.queries import Search
from fastjmix.ledger.reconcile import FOUND, LOST, reconcile
from fastjmix.ledger.rows import EnvelopeRow
from fastjmix.spool.directories import Directories
from tests.support.storages import MORNING, Storage, event

RECEIPT = {"status": 201, "at": MORNING + 50, "attempts": 4, "url": "u", "body": '{"id": "x"}'}
REFUSAL = {"status": 400, "reason": "bad", "at": MORNING + 70, "attempts": 1, "body": "no"}


def reconciled(storage: Storage, *, thorough: bool = False, **options: bool) -> None:
    with storage.writer(**options) as writer:
        list(reconcile(writer, thorough=thorough))


def states(storage: Storage) -> dict[str, str]:
    """Returns the states of the ledger, of those that are on the disk."""
    rows = storage.ledger.search(Search(), 1000).envelopes
    return {one.id: one.state for one in rows if one.state != "gone"}


def row(storage: Storage, envelope_id: str) -> EnvelopeRow:
    found = storage.ledger.envelope(envelope_id)
    assert found is not None
    return found


def test_an_empty_ledger_is_made_from_the_files(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    held, sent = storage.envelope("1.1"), storage.envelope("1.2", "sent", receipt=RECEIPT)
    refused = storage.envelope("1.3", "rejected", refusal=REFUSAL)
    draft, waiting = storage.draft("1.4"), storage.envelope("1.5")
    storage.hold(held)
    (tmp_path / "sent" / "notes.txt").write_text("a person's")
    reconciled(storage)
    expected = {held: "held", sent: "sent", refused: "rejected", draft: "building"}
    assert (
        states(storage) == expected | {waiting: "outbox"} == Places(Directories(tmp_path)).listed()
    )
    (story,) = storage.ledger.trace(sent).envelopes
    (attempt,) = story.attempts
    assert (attempt.outcome, attempt.status, attempt.began) == ("delivered", 201, MORNING + 50)
    assert row(storage, refused).reason == "bad"
    assert row(storage, refused).since == MORNING + 70
    assert row(storage, draft).studies == ("1.4",)


def test_a_reconciliation_that_is_repeated_changes_nothing(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for state in ("outbox", "sent", "rejected"):
        storage.envelope(f"1.2.{state == 'sent'}", state, receipt=RECEIPT)
    reconciled(storage)
    before = [storage.ledger.trace(one).as_json() for one in sorted(states(storage))]
    reconciled(storage, thorough=True)
    reconciled(storage)
    assert [storage.ledger.trace(one).as_json() for one in sorted(states(storage))] == before


def test_moves_that_no_event_told(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one, two, three = (storage.envelope(f"1.2.{n}") for n in range(3))
    reconciled(storage)
    storage.move(one, "outbox", "rejected")
    storage.delete(two, "outbox")
    storage.hold(three)
    reconciled(storage)
    assert states(storage) == {one: "rejected", three: "held"}
    assert (row(storage, two).state, row(storage, two).reason) == ("gone", LOST)
    assert row(storage, one).reason == FOUND
    assert storage.ledger.trace("1.2.1.1.0").envelopes[0].envelope.id == two


def test_an_event_behind_the_files_makes_no_second_attempt(tmp_path: Path) -> None:
    """The comparison finds an envelope in sent/ before the uploader's event is read."""
    storage = Storage(tmp_path)
    one = storage.envelope("1.2", "sent", receipt=RECEIPT)
    reconciled(storage)
    said = {"envelope": one, "upstream": "up", "outcome": "delivered", "status": 201}
    with storage.writer() as writer:
        began = {"began": MORNING + 49, "seconds": 0.9, "bytes": 3000}
        writer.apply(
            [event("attempt", MORNING + 50, answer="ok", reason="stored", **said, **began)]
        )
    (story,) = storage.ledger.trace(one).envelopes
    (attempt,) = story.attempts
    assert (attempt.began, attempt.seconds, attempt.answer) == (MORNING + 49, 0.9, "ok")


def test_an_unreadable_ticket_is_read_later(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope("1.2")
    ticket = tmp_path / "outbox" / f"{one}.json"
    whole = ticket.read_bytes()
    ticket.write_bytes(b"{")
    reconciled(storage)
    assert row(storage, one).sealed_at is None
    ticket.write_bytes(whole)
    reconciled(storage)
    assert row(storage, one).sealed_at == MORNING + 10


def test_it_goes_in_steps(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for number in range(30):
        storage.envelope(f"1.2.{number}")
    with storage.writer() as writer:
        steps = reconcile(writer)
        left = next(steps)
        assert storage.ledger.counts_by_state()["outbox"].count == 30 - left
        list(steps)
    assert states(storage) == Places(Directories(tmp_path)).listed()
