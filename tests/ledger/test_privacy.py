"""ledger/privacy.py: `patient_data = false` clears what an earlier setting wrote."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.ledger import privacy
from fastjmix.ledger.database import path_in, reading
from fastjmix.ledger.rebuild import rebuild
from fastjmix.ledger.reconcile import reconcile
from fastjmix.spool.provenance import WITHHELD
from tests.support.storages import MORNING, PATIENT, Storage, event

QUOTED = '{"patient": "Yamada^Tarou"}'
RECEIPT = {"status": 201, "at": MORNING + 50, "attempts": 1, "url": "u", "body": QUOTED}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """One with two envelopes in its ledger, of which one is gone from the disk, and patients."""
    made = Storage(tmp_path)
    one = made.envelope("1.2.1", "sent", receipt=RECEIPT)
    made.envelope("1.2.2")
    compare(made, patient_data=True)
    made.delete(one, "sent")
    compare(made, patient_data=True)
    assert len(made.ledger.trace("yamada").envelopes) == 2
    assert list(words_in(tmp_path))
    return made


def compare(storage: Storage, *, patient_data: bool) -> None:
    with storage.writer(patient_data=patient_data) as writer:
        privacy.begin(writer.connection, patient_data=patient_data)
        list(reconcile(writer))


def words_in(root: Path) -> Iterator[str]:
    """Yields the words of the patient that any file has, compressed ones included."""
    files = [*root.glob("ledger/*"), *root.glob("provenance/*")]
    texts = [path.read_bytes() for path in files]
    with reading(root) as connection:
        rows = connection.execute("SELECT data FROM provenance").fetchall()
    texts += [zlib.decompress(data) for (data,) in rows]
    for name in (*WITHHELD[:-2], "study_description"):
        word = PATIENT[name].partition("=")[0].encode()
        if len(word) > 1 and any(word in text for text in texts):
            yield name


def test_nothing_of_a_patient_is_kept(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    one = storage.envelope("1.2", "sent", receipt=RECEIPT)
    with storage.writer(patient_data=False) as writer:
        list(reconcile(writer))
        writer.apply([event("attempt", envelope=one, outcome="retry", answer=QUOTED)])
    (story,) = storage.ledger.trace("1.2").envelopes
    assert {getattr(story.envelope, name) for name in WITHHELD} == {""}
    assert [one.answer for one in story.attempts] == ["", ""]
    assert (story.envelope.study_date, story.envelope.modalities) == ("20260101", ("CT",))
    assert (len(story.instances), story.associations) == (3, ("run-1",))
    assert storage.ledger.trace("yamada").kind == ""
    assert list(words_in(tmp_path)) == []


def test_a_changed_setting_clears_what_is_there(storage: Storage) -> None:
    damaged = path_in(storage.root).with_name("ledger.sqlite.damaged-7")
    damaged.write_text("Yamada")
    compare(storage, patient_data=False)
    assert list(words_in(storage.root)) == []
    assert not damaged.exists()
    gone, kept = storage.ledger.trace("1.2.1"), storage.ledger.trace("1.2.2")
    assert [one.envelope.state for one in (*gone.envelopes, *kept.envelopes)] == ["gone", "outbox"]
    assert all(len(one.envelopes[0].instances) == 3 for one in (gone, kept))
    assert gone.envelopes[0].attempts[0].answer == ""


def test_so_does_a_rebuild(storage: Storage) -> None:
    rebuild(storage.root, patient_data=False)
    assert list(words_in(storage.root)) == []


def test_a_kill_in_between_leaves_it_to_the_next_start(storage: Storage) -> None:
    with storage.writer(patient_data=False) as writer:
        next(privacy.forget(writer))
        assert not privacy.is_free(writer.connection)
    compare(storage, patient_data=False)
    assert list(words_in(storage.root)) == []


def test_it_is_done_once_and_again_after_patients_were_kept(storage: Storage) -> None:
    for patient_data, free in ((False, True), (False, True), (True, False), (False, True)):
        compare(storage, patient_data=patient_data)
        with storage.writer() as writer:
            assert privacy.is_free(writer.connection) == free


def test_a_reader_of_the_old_state_delays_it(storage: Storage) -> None:
    with storage.writer(patient_data=False) as writer:
        writer.connection.execute("PRAGMA busy_timeout = 0")
        with reading(storage.root) as reader:
            reader.execute("SELECT count(*) FROM envelopes").fetchone()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                list(reconcile(writer))
            assert not privacy.is_free(writer.connection)
        list(reconcile(writer))
        assert privacy.is_free(writer.connection)
    assert list(words_in(storage.root)) == []
