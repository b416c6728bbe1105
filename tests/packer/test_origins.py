"""Whence instances came: in the provenance of a sealed envelope, also after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.spool import AssociationFacts, Provenance, Spool
from fastjmix.spool import journal as journals
from tests.support import wire
from tests.support.reception import Reception, recovered


@pytest.fixture
def reception(tmp_path: Path) -> Iterator[Reception]:
    one = Reception(tmp_path / "reception")
    yield one
    one.close()


def image(number: int, series: str = "1.2.826.7.1", size: int = 3000) -> bytes:
    return wire.data_set(
        study="1.2.826.7", series=series, instance=f"1.2.826.7.9.{number}", pixels=bytes(size)
    )


def of(spool: Spool, archive: Path) -> Provenance:
    return Provenance.read(spool, archive.stem)


def test_each_instance_has_its_association_and_time(reception: Reception) -> None:
    began = time.time()
    for number in range(3):
        assert reception.store(image(number), f"1.2.826.7.9.{number}") == 0
    assert reception.store(image(3, "1.2.826.7.2"), "1.2.826.7.9.3") == 0
    assert reception.store(image(1), "1.2.826.7.9.1") == 0  # the same bytes again
    (archive,) = reception.seal()
    found = of(reception.spool, archive)
    assert found.origin == "dicom"
    assert found.associations == (reception.facts,)
    assert found.study.study_instance_uid == "1.2.826.7"
    assert found.series == ("1.2.826.7.1", "1.2.826.7.2")
    assert found.sop_classes == (wire.CT,)
    rows = [
        (one.sop_instance_uid[-1], one.series, one.association, one.kept) for one in found.instances
    ]
    assert rows == [("0", 0, 0, 1), ("1", 0, 0, 1), ("2", 0, 0, 1), ("3", 1, 0, 1), ("1", 0, 0, 0)]
    arrived = [one.arrived for one in found.instances]
    assert began - 0.002 <= arrived[0] <= arrived[-1] <= time.time()
    assert arrived == sorted(arrived)


@pytest.mark.fault("F85")
def test_a_killed_packer_leaves_it_to_its_successor(reception: Reception, tmp_path: Path) -> None:
    for number in range(3):
        assert reception.store(image(number), f"1.2.826.7.9.{number}") == 0
    assert reception.store(image(1), "1.2.826.7.9.1") == 0
    large = image(4, size=1_500_000)  # larger than half its lane: joined
    assert reception.store(large, "1.2.826.7.9.4") == 0
    assert reception.store(large, "1.2.826.7.9.4") == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    (archive,) = reception.seal()
    before = of(reception.spool, archive)
    recovered(left)
    (archive,) = left.outbox.glob("*.zip")
    after = of(left, archive)
    left.release()
    assert (before.origin, after.origin) == ("dicom", "recovered")
    assert after.associations == before.associations == (reception.facts,)
    assert after.study == before.study
    assert [one.kept for one in before.instances] == [1, 1, 1, 0, 1, 0]
    # Repetitions follow the others here: the journal has them apart.
    assert sorted(after.instances) == sorted(before.instances)


@pytest.mark.fault("F84")
def test_it_is_copied_out_beside_damage(reception: Reception, tmp_path: Path) -> None:
    for number in range(3):
        assert reception.store(image(number), f"1.2.826.7.9.{number}") == 0
    assert reception.store(image(2), "1.2.826.7.9.2") == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    (draft,) = left.building.glob("*/envelope.zip")
    text = bytearray(draft.read_bytes())
    text[2000] ^= 1  # in the first member
    draft.write_bytes(text)
    assert any(outcome.fresh is not None for outcome in recovered(left))
    (archive,) = left.outbox.glob("*.zip")
    found = of(left, archive)
    left.release()
    assert found.associations == (reception.facts,)
    assert [(one.sop_instance_uid[-1], one.kept) for one in found.instances] == [
        ("1", 1),
        ("2", 1),
        ("2", 0),
    ]
    assert min(one.arrived for one in found.instances) > 0


@pytest.mark.fault("F85")
@pytest.mark.parametrize("lost", ["all", "the facts"])
def test_what_the_journal_lost_is_unknown(reception: Reception, tmp_path: Path, lost: str) -> None:
    for number in range(2):
        assert reception.store(image(number), f"1.2.826.7.9.{number}") == 0
    left = reception.as_a_kill_leaves_it(tmp_path / "left")
    (journal,) = left.building.glob(f"*/{journals.NAME}")
    text = journal.read_bytes()
    journal.write_bytes(b"" if lost == "all" else text.replace(b"MODALITY", b"MADALITY"))
    recovered(left)
    (archive,) = left.outbox.glob("*.zip")
    found = of(left, archive)
    left.release()
    assert found.associations == ()
    assert [one.association for one in found.instances] == [-1, -1]
    assert all((one.arrived == 0) == (lost == "all") for one in found.instances)


def test_a_lane_without_facts_is_an_unknown_association(reception: Reception) -> None:
    lanes = reception.passage.lanes
    lanes.open(0, 2, 0, b"MODALITY")
    assert reception.store(image(1), "1.2.826.7.9.1") == 0
    lanes.open(0, 3, 0, b"MODALITY", AssociationFacts("7-3").dump())
    assert reception.store(image(2), "1.2.826.7.9.2") == 0
    (archive,) = reception.seal()
    found = of(reception.spool, archive)
    assert [one.association for one in found.instances] == [-1, 0]
    assert [one.id for one in found.associations] == ["7-3"]
