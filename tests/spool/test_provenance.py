"""provenance/<id>.json: read as written, never in the way, and gone with its envelope."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.errors import DamagedTicket
from fastjmix.spool import AssociationFacts, Provenance, Retention, Spool, Ticket, provenance
from fastjmix.spool.provenance import ArrivedInstance, StudyFacts
from fastjmix.spool.sweep import Sweep
from tests.support.sealed import sealed_envelope

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
names = st.lists(texts, min_size=1, max_size=4)
facts = st.builds(
    AssociationFacts, texts, texts, texts, texts, texts, texts, st.floats(0, 1e9, width=32)
)


@st.composite
def provenances(draw: st.DrawFn) -> Provenance:
    series, classes, syntaxes = (tuple(draw(names)) for _ in range(3))
    associations = tuple(draw(st.lists(facts, max_size=3)))
    one = st.builds(
        ArrivedInstance,
        texts,
        st.integers(0, len(series) - 1),
        st.integers(0, len(classes) - 1),
        st.integers(0, len(syntaxes) - 1),
        st.integers(-1, len(associations) - 1),
        st.integers(0, 1 << 42).map(lambda ms: ms / 1000),
        st.integers(0, 1 << 40),
        st.just("0000"),
        st.integers(0, 1),
    )
    a, b, c, d, e, f, g, h = (draw(texts) for _ in range(8))
    study = StudyFacts(a, b, c, d, e, f, g, h, tuple(draw(names)))
    instances = tuple(draw(st.lists(one, max_size=5)))
    kind: Any = draw(st.sampled_from(["dicom", "post", "recovered"]))
    return Provenance(
        str(uuid.uuid4()), kind, associations, study, series, classes, syntaxes, instances
    )


@settings(deadline=None)
@given(provenances())
def test_it_is_read_as_it_was_written(one: Provenance) -> None:
    assert Provenance.load(one.dump(), "here") == one


@settings(deadline=None)
@given(provenances(), st.data())
def test_another_text_is_no_provenance(one: Provenance, data: st.DataObject) -> None:
    """Any value in the place of another: it is refused, or read as a provenance that can be
    written."""
    found = orjson.loads(one.dump())
    key = data.draw(st.sampled_from(sorted(found)))
    found[key] = data.draw(
        st.none() | st.integers(-5, 5) | texts | st.lists(st.none() | texts, max_size=2)
    )
    try:
        read = Provenance.load(orjson.dumps(found), "here")
    except DamagedTicket:
        return
    assert Provenance.load(read.dump(), "here") == read


@given(st.binary(max_size=300))
def test_bytes_are_no_provenance(text: bytes) -> None:
    with pytest.raises(DamagedTicket):
        Provenance.load(text, "here")


@pytest.mark.parametrize(
    ("place", "wrong"), [(1, 9), (2, -1), (4, -2), (4, 7), (5, 1e300), (6, -1), (8, 2), (0, 5)]
)
def test_an_instance_that_names_nothing_is_refused(place: int, wrong: object) -> None:
    row: list[Any] = ["1.2.3", 0, 0, 0, -1, 5.0, 10, "0000", 1]
    good = Provenance(str(uuid.uuid4()), "dicom", (), StudyFacts("1"), ("1",), ("1",), ("1",))
    found = orjson.loads(good.dump())
    found["instances"] = [row]
    assert Provenance.load(orjson.dumps(found), "here").instances[0].sop_instance_uid == "1.2.3"
    row[place] = wrong
    with pytest.raises(DamagedTicket):
        Provenance.load(orjson.dumps(found), "here")


# -- on the disk ----------------------------------------------------------------------------------


def posted(spool: Spool) -> str:
    """Puts an envelope with its provenance in outbox/."""
    envelope_id = str(uuid.uuid4())
    upload = spool.new_upload()
    upload.write_bytes(sealed_envelope(envelope_id))
    ticket = Ticket(
        envelope_id, "p", ("up",), "uploaded", (), "", 1, upload.stat().st_size, time.time(), "api"
    )
    of = Provenance(envelope_id, "post", (AssociationFacts("", peer="::1"),), StudyFacts(""))
    assert spool.admit(upload, ticket, of)
    return envelope_id


def test_it_names_no_patient_where_none_is_wanted(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", durable=False, patient_data=False)
    spool.prepare()
    child = spool.inherited()
    spool.release()
    study = StudyFacts("1.2", "A-1", "P-1", "Doe^Jane", "1970", "F", "2026", "of Jane", ("CT",))
    one = Provenance(str(uuid.uuid4()), "dicom", (), study)
    provenance.write(child, one)
    found = Provenance.read(child, one.id)
    assert found.study == StudyFacts("1.2", study_date="2026", modalities=("CT",))
    assert found.without_patient() is found


def recorded(spool: Spool) -> list[str]:
    return sorted(path.name for path in spool.provenance.iterdir())


def test_it_stays_in_every_state_and_goes_with_the_envelope(spool: Spool) -> None:
    delivered, rejected, withdrawn = (posted(spool) for _ in range(3))
    spool.deliver(delivered, {"status": 201})
    spool.reject(rejected, {"why": "no"})
    assert Provenance.read(spool, delivered).origin == "post"
    spool.withdraw(withdrawn)
    assert recorded(spool) == sorted([f"{delivered}.json", f"{rejected}.json"])
    assert Retention(spool, max_age_secs=-1.0).run() == [delivered]
    assert recorded(spool) == [f"{rejected}.json"]


def test_one_without_an_envelope_is_deleted_at_the_start(spool: Spool) -> None:
    """Files of ours alone: others stay, and every state keeps its own."""
    outbox, sent, rejected = (posted(spool) for _ in range(3))
    spool.deliver(sent, {"status": 201})
    spool.reject(rejected, {"why": "no"})
    orphan, retained = str(uuid.uuid4()), posted(spool)
    spool.deliver(retained, {"status": 201})
    spool.path("sent", retained).unlink()  # retention was killed here
    provenance.write(spool, Provenance(orphan, "dicom", (), StudyFacts("1")))
    for name in ("notes.txt", f"supervisor-{orphan}.new"):
        (spool.provenance / name).touch()
    spool.release()
    again = Spool(spool.root, durable=False)
    again.prepare()
    again.release()
    assert recorded(spool) == sorted(
        [*(f"{one}.json" for one in (outbox, sent, rejected)), "notes.txt"]
    )


def test_a_state_that_cannot_be_listed_keeps_all(spool: Spool) -> None:
    orphan = str(uuid.uuid4())
    provenance.write(spool, Provenance(orphan, "dicom", (), StudyFacts("1")))
    spool.sent.rename(spool.root / "elsewhere")
    spool.sent.touch()
    Sweep(spool, spool.drafts).at_start()
    assert recorded(spool) == [f"{orphan}.json"]


def test_a_later_attempt_replaces_it(spool: Spool) -> None:
    one = Provenance(str(uuid.uuid4()), "dicom", (), StudyFacts("1"))
    provenance.write(spool, one)
    later = Provenance(one.id, "recovered", (), StudyFacts("1"))
    provenance.write(spool, later)
    assert Provenance.read(spool, one.id) == later
    assert recorded(spool) == [f"{one.id}.json"]


def test_one_that_cannot_be_written_stops_nothing(
    spool: Spool, capfd: pytest.CaptureFixture[str]
) -> None:
    spool.provenance.rmdir()
    spool.provenance.touch()
    envelope_id = str(uuid.uuid4())
    upload = spool.new_upload()
    upload.write_bytes(sealed_envelope(envelope_id))
    ticket = Ticket(envelope_id, "p", ("up",), "uploaded", (), "", 1, 1, time.time(), "api")
    of = Provenance(envelope_id, "post", (), StudyFacts(""))
    assert not spool.admit(upload, ticket, of)
    assert spool.path("outbox", envelope_id).exists()
    assert f"provenance_failed envelope={envelope_id}" in capfd.readouterr().err


def test_one_of_another_envelope_is_refused(spool: Spool) -> None:
    one = Provenance(str(uuid.uuid4()), "dicom", (), StudyFacts("1"))
    provenance.write(spool, one)
    other = str(uuid.uuid4())
    provenance.path_of(spool, one.id).rename(provenance.path_of(spool, other))
    with pytest.raises(DamagedTicket, match="another envelope"):
        Provenance.read(spool, other)
