"""ledger/database.py: one writer, a file that is checked, and damage that is seen."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from fastjmix.ledger import database, schema
from fastjmix.ledger.database import LedgerDamaged, LedgerUnavailable
from fastjmix.ledger.queries import Search
from fastjmix.ledger.reconcile import reconcile
from tests.support.storages import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    own = Storage(tmp_path)
    for number in range(20):
        own.envelope(f"1.2.{number}", count=100)
    with own.writer() as writer:
        list(reconcile(writer))
    return own


def test_there_is_one_writer(storage: Storage) -> None:
    with (
        storage.writer(),
        pytest.raises(LedgerUnavailable, match="another process writes"),
        storage.writer(),
    ):
        pass
    with storage.writer():
        pass


def test_nobody_else_may_read_the_files(storage: Storage) -> None:
    directory = storage.root / "ledger"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    with storage.writer():
        modes = {stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()}
    assert modes == {0o600}


@pytest.mark.parametrize("at", [0, 16, 100, 5 * 4096, 9 * 4096 + 3])
def test_damage_is_seen(storage: Storage, at: int) -> None:
    path = database.path_in(storage.root)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 4096)
    with pytest.raises(LedgerDamaged):
        database.open_for_writing(storage.root)


def test_another_programs_database_is_not_taken(tmp_path: Path) -> None:
    path = database.path_in(tmp_path)
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (a)")
        other.execute("PRAGMA user_version = 1")
    other.close()
    with pytest.raises(LedgerDamaged, match="not a ledger"):
        database.open_for_writing(tmp_path)


def test_a_later_versions_file_is_left_alone(storage: Storage) -> None:
    with storage.writer() as writer:
        writer.connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    with pytest.raises(LedgerUnavailable, match="later version"):
        database.open_for_writing(storage.root)
    with pytest.raises(LedgerUnavailable, match="its version"):
        storage.ledger.recent_errors()


def test_a_damaged_file_is_moved_away_and_one_is_kept(storage: Storage) -> None:
    path = database.path_in(storage.root)
    with database.write_lock(storage.root):
        assert database.move_away(storage.root, 1000.0) == path.with_name(
            "ledger.sqlite.damaged-1000"
        )
        path.write_bytes(b"again")
        database.move_away(storage.root, 2000.0)
    assert [one.name for one in path.parent.glob("*damaged*")] == ["ledger.sqlite.damaged-2000"]


@pytest.mark.fault("S36")
def test_seconds_of_a_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    with storage.writer() as writer:
        words = ((f"a{n:06}", n) for n in range(20_000))
        writer.connection.executemany("INSERT INTO names (word, envelope) VALUES (?, ?)", words)
    assert storage.ledger.search(Search(patient_name="a")).envelopes == ()
    monkeypatch.setattr(database, "QUESTION_SECS", 0.0)
    with pytest.raises(LedgerUnavailable, match="was stopped") as stopped:
        storage.ledger.search(Search(patient_name="a"))
    assert "longer word" in stopped.value.hint
    assert storage.ledger.search(Search(study="1.2")).envelopes == (), "that is found at once"
