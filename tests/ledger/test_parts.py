"""Which envelopes are parts of which: from the tickets, whichever is read first."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fastjmix.ledger import database, parts, schema
from fastjmix.ledger.expiry import Limits, expire
from fastjmix.ledger.reconcile import reconcile
from fastjmix.ledger.rows import EnvelopeStory
from tests.support.storages import MORNING, Storage, event

ID = "550e8400-e29b-41d4-a716-44665544000{}"
REFUSAL = {"status": 413, "reason": "too large", "at": MORNING + 20}


def story(storage: Storage, envelope_id: str) -> EnvelopeStory:
    (found,) = storage.ledger.trace(envelope_id).envelopes
    return found


def reconciled(storage: Storage) -> None:
    with storage.writer() as writer:
        list(reconcile(writer))


def split(*named: str, at: float = MORNING + 30) -> dict[str, Any]:
    return {**REFUSAL, "split_into": named, "split_by": "uid 0 root", "split_at": at}


def split_storage(tmp_path: Path) -> tuple[Storage, str, list[str]]:
    """Makes a ledger that knows an envelope, and then splits that; returns its id, its parts."""
    storage = Storage(tmp_path)
    whole = storage.envelope("1.2.3", "rejected", refusal=REFUSAL)
    reconciled(storage)
    made = [storage.envelope("1.2.3", tags=("a", f"part-of-{whole}")) for _ in range(2)]
    record = tmp_path / "rejected" / f"{whole}.json"
    again = storage.envelope("1.2.3", "rejected", refusal=split(*made))
    text = (tmp_path / "rejected" / f"{again}.json").read_text().replace(again, whole)
    record.write_text(text)
    storage.delete(again, "rejected")
    return storage, whole, made


def test_a_part_leads_to_the_whole_whose_ticket_was_read_before(tmp_path: Path) -> None:
    storage, whole, made = split_storage(tmp_path)
    assert story(storage, whole).split_into == ()
    for _ in range(2):
        reconciled(storage)
        told = story(storage, whole)
        assert told.split_into == tuple(made)
        (action,) = told.actions
        assert (action.at, action.actor, action.action) == (MORNING + 30, "uid 0 root", "split")
        assert (action.result, action.envelopes) == ("done: 2 parts", (whole, *made))
        assert [story(storage, one).part_of for one in made] == [whole, whole]
    assert (story(storage, made[0]).part_of, story(storage, made[0]).split_into) == (whole, ())
    assert story(storage, made[0]).as_json()["tags"] == ("a", f"part-of-{whole}")


def test_the_event_of_a_changed_ticket_is_enough(tmp_path: Path) -> None:
    storage, whole, made = split_storage(tmp_path)
    with storage.writer() as writer:
        writer.apply([event("changed", envelope=one) for one in (whole, *made, "no id")])
        assert parts.unconfirmed(writer.connection) == []
    assert story(storage, whole).split_into == tuple(made)
    assert story(storage, made[1]).part_of == whole


def test_a_second_split_is_a_second_action(tmp_path: Path) -> None:
    storage, whole, _ = split_storage(tmp_path)
    reconciled(storage)
    record = tmp_path / "rejected" / f"{whole}.json"
    record.write_text(record.read_text().replace(f"{MORNING + 30}", f"{MORNING + 40}"))
    with storage.writer() as writer:
        writer.apply([event("changed", envelope=whole)])
    assert [one.at for one in story(storage, whole).actions] == [MORNING + 30, MORNING + 40]


@pytest.mark.parametrize(
    "wrong",
    [
        {"split_into": "text"},
        {"split_into": [1]},
        {"split_into": ["../x"]},
        {"split_into": [ID.format(0)], "split_at": "soon"},
    ],
)
def test_a_refusal_that_we_did_not_write_so_is_no_split(
    tmp_path: Path, wrong: dict[str, Any]
) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope("1.2.3", "rejected", refusal={**split(ID.format(0)), **wrong})
    part = storage.envelope("1.2.4", tags=("part-of-nothing", "part-of-"))
    reconciled(storage)
    assert (story(storage, one).split_into, story(storage, one).actions) == ((), ())
    assert story(storage, part).part_of == ""


def test_parts_are_named_as_long_as_one_of_both_is_known(tmp_path: Path) -> None:
    storage, whole, made = split_storage(tmp_path)
    reconciled(storage)
    storage.delete(made[0], "outbox")
    storage.delete(whole, "rejected")
    limits = Limits(max_age_secs=1)
    with storage.writer() as writer:
        connection = writer.connection
        list(reconcile(writer))
        while expire(writer, limits, MORNING + 10):
            pass
        assert parts.of(connection, whole) == (made[1],)
        assert parts.whole(connection, made[1]) == whole
        storage.delete(made[1], "outbox")
        list(reconcile(writer))
        while expire(writer, limits, MORNING + 10):
            pass
        assert parts.whole(connection, made[1]) == ""


def test_a_ledger_of_the_version_before_is_filled_from_the_tickets(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope(rule="stat ct", priority="stat", tags=("a", "b"))
    reconciled(storage)
    path = database.path_in(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.executescript(
            "DROP TABLE split_parts; ALTER TABLE envelopes DROP COLUMN rule;"
            "ALTER TABLE envelopes DROP COLUMN priority; ALTER TABLE envelopes DROP COLUMN tags;"
            "PRAGMA user_version = 3;"
        )
    connection.close()
    assert schema.VERSION > 3
    with storage.writer():
        row = story(storage, one).envelope
        assert (row.rule, row.priority, row.tags) == ("", "", ())
    reconciled(storage)
    row = story(storage, one).envelope
    assert (row.rule, row.priority, row.tags) == ("stat ct", "stat", ("a", "b"))
