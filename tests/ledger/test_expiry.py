"""ledger/expiry.py: the oldest goes first, and nothing that is still on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastjmix.ledger import expiry
from fastjmix.ledger.database import used_bytes
from fastjmix.ledger.expiry import Limits, expire
from fastjmix.ledger.queries import Search
from fastjmix.ledger.reconcile import reconcile
from fastjmix.ledger.writer import Writer
from tests.support.storages import MORNING, Storage, association, event

DAY = 86400.0


def filled(storage: Storage, writer: Writer, count: int) -> list[str]:
    """Makes envelopes of one a day that are gone from the disk; returns their ids."""
    made = [storage.envelope(f"1.2.{n}", at=MORNING + n * DAY, count=50) for n in range(count)]
    list(reconcile(writer))
    for envelope_id in made:
        storage.delete(envelope_id, "outbox")
    list(reconcile(writer))
    return made


def known(storage: Storage) -> set[str]:
    return {one.id for one in storage.ledger.search(Search(), 1000).envelopes}


def tables(writer: Writer) -> dict[str, int]:
    names = ("uids", "names", "provenance", "envelope_associations", "moves", "attempts")
    asked = "SELECT count(*) FROM "
    return {one: writer.connection.execute(asked + one).fetchone()[0] for one in names}


def test_by_age(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        made = filled(storage, writer, 4)
        kept = storage.envelope("1.9", at=MORNING - 900 * DAY)
        list(reconcile(writer))
        writer.apply([association(9), event("error", process="p", event="e", text="t")])
        limits = Limits(max_age_secs=10 * DAY)
        while expire(writer, limits, MORNING + 12.5 * DAY):
            pass
        assert known(storage) == {made[3], kept}
        assert storage.ledger.association("run-9") is None
        assert storage.ledger.association("run-1") is not None
        assert storage.ledger.recent_errors() == ()
        while expire(writer, limits, MORNING + 99 * DAY):
            pass
        assert known(storage) == {kept}
        counted = tables(writer)
        assert (counted["uids"], counted["provenance"]) == (5, 1)
        list(reconcile(writer))
    assert known(storage) == {kept}


def test_by_size(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        made = filled(storage, writer, 150)
        before = used_bytes(writer.connection)
        limits = Limits(max_bytes=before - 50_000)
        assert expire(writer, limits, MORNING)
        while expire(writer, limits, MORNING):
            pass
        assert used_bytes(writer.connection) <= before - 50_000
        left = known(storage)
        assert made[0] not in left
        assert made[-1] in left
        writer.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert (tmp_path / "ledger" / "ledger.sqlite").stat().st_size <= before


def test_nothing_is_deleted_without_a_reason(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        made = filled(storage, writer, 3)
        assert not expire(writer, Limits(), MORNING + 1e9)
        assert not expire(writer, Limits(1e9, 1 << 40), MORNING)
    assert known(storage) == set(made)


def test_tables_that_peers_fill_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "ROWS_MAX", 50)
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        for number in range(80):
            said = {"calling_ae": str(number), "called_ae": "", "peer": "", "why": "unknown"}
            writer.apply([{"kind": "rejection", "at": MORNING, **said}])
        while expire(writer, Limits(), MORNING):
            pass
    found = storage.ledger.recent_rejections(100)
    assert sorted(int(one.calling_ae) for one in found) == list(range(30, 80))


@pytest.mark.fault("S35")
def test_associations_without_an_instance_push_no_envelope_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "ROWS_MAX", 20)
    monkeypatch.setattr(expiry, "STEP_ROWS", 7)
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        made = filled(storage, writer, 3)
        before = used_bytes(writer.connection)
        flood = (association(n, at=MORNING + 9 * DAY + n, stored=0) for n in range(100, 3100))
        writer.apply(flood)
        limits = Limits(max_bytes=before + 100_000)
        assert used_bytes(writer.connection) > before + 100_000
        while expire(writer, limits, MORNING):
            pass
        assert known(storage) == set(made)
        assert storage.ledger.association("run-1") is not None, "it brought them"
        kept = {one.id for one in storage.ledger.recent_associations(99)}
        assert kept == {"run-1", *(f"run-{n}" for n in range(3080, 3100))}
