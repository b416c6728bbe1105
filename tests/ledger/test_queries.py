"""ledger/queries.py: every kind of word finds what it should, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import UsageError
from fastjmix.ledger.database import LedgerUnavailable, path_in
from fastjmix.ledger.queries import Ledger, Search
from fastjmix.ledger.reconcile import reconcile
from fastjmix.ledger.terms import uid_key
from fastjmix.spool.provenance import WITHHELD
from tests.support.storages import MORNING, PATIENT, Storage

OTHER = {
    "accession_number": "A_2201",
    "patient_id": "P%77",
    "patient_name": "Müller^Jürgen",
    "modalities": ["MR", "SR"],
}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A ledger with two envelopes: one of Yamada in outbox/, one of Müller, later, in sent/."""
    own = Storage(tmp_path)
    own.envelope("1.2.3")
    own.envelope("1.2.4", "sent", at=MORNING + 100, about=OTHER, calling_ae="MR1", upstreams=("b",))
    with own.writer() as writer:
        list(reconcile(writer))
    return own


@pytest.mark.parametrize(
    ("search", "studies"),
    [
        (Search(), ["1.2.4", "1.2.3"]),
        (Search(study="1.2.3"), ["1.2.3"]),
        (Search(series="1.2.3.1"), ["1.2.3"]),
        (Search(instance="1.2.3.1.2"), ["1.2.3"]),
        (Search(instance="1.2.3.1"), []),
        (Search(study="1.2.3.1"), []),
        (Search(accession="A_2201"), ["1.2.4"]),
        (Search(accession="A-2201"), ["1.2.3"]),
        (Search(accession="%"), []),
        (Search(accession=""), []),
        (Search(patient_id="P%77"), ["1.2.4"]),
        (Search(patient_id="P-77"), ["1.2.3"]),
        (Search(patient_name="MULLER"), ["1.2.4"]),
        (Search(patient_name="müller, jür"), ["1.2.4"]),
        (Search(patient_name="jurgen"), ["1.2.4"]),
        (Search(patient_name="uller"), []),
        (Search(patient_name="%"), []),
        (Search(patient_name="山"), ["1.2.3"]),
        (Search(patient_name="ヤマ"), []),
        (Search(patient_name="やまだ^た"), ["1.2.3"]),
        (Search(calling_ae="MR1"), ["1.2.4"]),
        (Search(peer="10.0.0.7:5"), ["1.2.4", "1.2.3"]),
        (Search(peer="10.0.0."), []),
        (Search(upstream="b"), ["1.2.4"]),
        (Search(states=("sent", "held")), ["1.2.4"]),
        (Search(since=MORNING + 50), ["1.2.4"]),
        (Search(until=MORNING + 50), ["1.2.3"]),
        (Search(patient_name="yamada", calling_ae="MR1"), []),
        (Search(calling_ae="x' OR '1'='1"), []),
    ],
    ids=lambda value: str(value) if isinstance(value, Search) else None,
)
def test_a_search(storage: Storage, search: Search, studies: list[str]) -> None:
    found = storage.ledger.search(search).envelopes
    assert [one.study_instance_uid for one in found] == studies


def test_an_id_is_found_by_its_beginning(storage: Storage) -> None:
    (row,) = storage.ledger.search(Search(study="1.2.3")).envelopes
    for word in (row.id, row.id[:6], row.id.upper()):
        (found,) = storage.ledger.search(Search(envelope=word)).envelopes
        assert found == row
    assert storage.ledger.search(Search(envelope="_" * 36)).envelopes == ()
    assert storage.ledger.envelope(row.id.upper()) == row


def test_uids_of_one_key_are_told_apart(storage: Storage) -> None:
    (row,) = storage.ledger.search(Search(study="1.2.4")).envelopes
    with storage.writer() as writer:  # as if both UIDs had one key
        asked = "INSERT INTO uids (key, envelope) VALUES (?, ?)"
        writer.connection.execute(asked, (uid_key("1.2.3.1.2"), row.number))
        writer.connection.execute(asked, (uid_key("1.2.3"), row.number))
    for search in (Search(instance="1.2.3.1.2"), Search(study="1.2.3")):
        (found,) = storage.ledger.search(search).envelopes
        assert found.study_instance_uid == "1.2.3"
    assert [one.envelope.studies for one in storage.ledger.trace("1.2.3").envelopes] == [("1.2.3",)]


def test_pages_show_each_envelope_once(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    made = {storage.envelope(f"1.2.{n}", at=MORNING + n // 3) for n in range(20)}
    with storage.writer() as writer:
        list(reconcile(writer))
    found: list[Any] = []
    cursor: str | None = None
    while True:
        page = storage.ledger.search(Search(states=("outbox",)), 3, cursor)
        found += page.envelopes
        if (cursor := page.cursor) is None:
            break
    assert [one.at for one in found] == sorted((one.at for one in found), reverse=True)
    assert (len(found), {one.id for one in found}) == (20, made)


@pytest.mark.fault("S36")
@pytest.mark.parametrize(
    "cursor", ["", "1", "x_y", "1_2_3", "1_-1", "nan_'", "nan_1", "inf_1", f"1_{1 << 63}"]
)
def test_a_wrong_cursor_is_the_callers_fault(storage: Storage, cursor: str) -> None:
    with pytest.raises(UsageError, match="cursor"):
        storage.ledger.search(Search(), cursor=cursor)


def test_a_wrong_state_or_name_is_the_callers_fault(storage: Storage) -> None:
    with pytest.raises(UsageError, match="no state"):
        storage.ledger.search(Search(states=("lost",)))
    with pytest.raises(UsageError, match="no name"):
        storage.ledger.search(Search(patient_name=" ^ "))


def test_counts(storage: Storage) -> None:
    counts = storage.ledger.counts_by_state()
    assert {state: one.count for state, one in counts.items()} == {
        "building": 0, "outbox": 1, "held": 0, "rejected": 0, "sent": 1,
    }  # fmt: skip
    assert (counts["outbox"].bytes, counts["held"].oldest) == (3000, None)
    info = storage.ledger.info()
    assert (info.envelopes, info.instances, info.associations) == (2, 6, 1)
    assert info.oldest == MORNING
    assert 4096 < info.used_bytes <= info.file_bytes
    assert info.compared_at is not None


def test_json_without_the_patient(storage: Storage) -> None:
    (row,) = storage.ledger.search(Search(study="1.2.3")).envelopes
    whole, bare = row.as_json(), row.as_json(patient=False)
    assert whole["patient_name"] == PATIENT["patient_name"]
    assert whole.keys() - bare.keys() == set(WITHHELD)
    assert "number" not in whole


def test_no_ledger_is_said(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="no ledger yet"):
        Ledger(tmp_path).search(Search())
    path_in(tmp_path).parent.mkdir()
    path_in(tmp_path).write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        Ledger(tmp_path).recent_errors()


def test_a_reader_writes_nothing(storage: Storage) -> None:
    path = path_in(storage.root)
    before = path.read_bytes()
    storage.ledger.trace("1.2.3")
    assert path.read_bytes() == before
    code = (
        "import sys; from pathlib import Path; from fastjmix.ledger.queries import Ledger, Search;"
        "print(len(Ledger(Path(sys.argv[1])).search(Search()).envelopes))"
    )
    path.parent.chmod(0o500)  # nobody but root could make a file there
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(storage.root)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        path.parent.chmod(0o700)
    assert done.stdout.strip() == "2"


def test_a_reader_and_the_writer_do_not_wait_for_each_other(storage: Storage) -> None:
    with storage.writer() as writer, writer.transaction():
        writer.connection.execute("UPDATE envelopes SET state = 'gone'")
        assert len(storage.ledger.search(Search(states=("outbox",))).envelopes) == 1
    assert storage.ledger.search(Search(states=("outbox",))).envelopes == ()
    assert os.listdir(path_in(storage.root).parent)  # noqa: PTH208


def test_an_unknown_id_is_nothing(storage: Storage) -> None:
    assert storage.ledger.envelope(str(uuid.uuid4())) is None
    assert storage.ledger.association("no-1") is None
    (found,) = storage.ledger.recent_associations()
    assert (found.id, found.ended, found.calling_ae) == ("run-1", None, "CT1")
