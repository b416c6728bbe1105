"""jmix/write/described.py: a study is described by all its instances, and in no order of theirs."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix import _core
from fastjmix.dicom import dataset
from fastjmix.dicom.dataset import Description, describe_series
from fastjmix.jmix.write import described, harmony, published
from fastjmix.jmix.write.described import preferred
from fastjmix.jmix.write.envelope import Contents, Options
from tests.dicom.test_dataset import EXPLICIT, head
from tests.jmix.test_envelope import CT, ID, SEALED_AT
from tests.jmix.test_published import PLAIN as PARTIES
from tests.support import published_rules

IMAGE = Description(
    patient_name="SYN^TH",
    patient_id="P1",
    patient_birth_date="19700131",
    patient_sex="F",
    study_date="20260101",
    study_description="Thorax",
    modality="CT",
    series_number=2,
    series_description="nativ",
    body_part="CHEST",
)


def told(*instances: tuple[str, Description], profile: Any = harmony) -> dict[str, Any]:
    """metadata.json of instances: series and description of each, in the order of arrival."""
    held = Contents(profile.member_name)
    for number, (series, one) in enumerate(instances, 1):
        uid = f"1.2.{number}"
        held.add("1.2", series, CT, uid, EXPLICIT, number, 1, bytes(32), one)
    documents = profile.documents(held, Options(ID, SEALED_AT, published=PARTIES))
    found: dict[str, Any] = orjson.loads(
        next(one.data for one in documents if one.name == b"payload/metadata.json")
    )
    return found


def study(*instances: tuple[str, Description]) -> dict[str, Any]:
    found: dict[str, Any] = told(*instances)["studies"]["1.2"]
    return found


# -- what is empty is filled ---------------------------------------------------------------------


@pytest.mark.parametrize("field", ["patient_name", "study_date"])
def test_a_later_instance_fills_what_the_first_left_empty(field: str) -> None:
    bare = Description(modality="CT")
    assert study(("1", bare), ("1", IMAGE))[field] == getattr(IMAGE, field)
    assert study(("1", bare), ("2", IMAGE))[field] == getattr(IMAGE, field)
    assert study(("1", IMAGE), ("1", bare))[field] == getattr(IMAGE, field)


def test_a_later_instance_fills_its_series() -> None:
    (series,) = study(("1", Description()), ("1", IMAGE))["series"]
    shown = [series[key] for key in ("modality", "series_number", "description", "body_part")]
    assert shown == ["CT", 2, "nativ", "CHEST"]


def test_carets_alone_are_no_name() -> None:
    assert study(("1", Description(patient_name="^^^^")), ("1", IMAGE))["patient_name"] == "SYN^TH"


def test_what_is_filled_stays() -> None:
    later = Description(study_date="20260102", patient_name="Syn^Th")
    found = study(("1", IMAGE), ("2", later))
    assert (found["study_date"], found["patient_name"]) == ("20260101", "SYN^TH")


def test_profile_jmix_is_filled_likewise() -> None:
    found = told(("1", Description(modality="SR")), ("2", IMAGE), profile=published)
    published_rules.check("metadata", found)
    assert found["patient"]["id"] == "P1"
    assert found["patient"]["dob"] == "1970-01-31"
    assert found["studies"]["study_description"] == "Thorax"
    assert "extensions" not in found


# -- modality ------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["SR", "PR", "KO", "DOC", "OT", "SEG", "RTSTRUCT", "ECG", "sr"])
def test_images_say_the_modality_whatever_came_first_or_oftener(other: str) -> None:
    arrivals = [("1", Description(modality=other)) for _ in range(3)] + [("2", IMAGE)]
    assert study(*arrivals)["modality"] == study(*arrivals[::-1])["modality"] == "CT"


def test_a_study_without_images_has_its_own_modality() -> None:
    report = Description(modality="SR")
    assert study(("1", report))["modality"] == "SR"
    assert study(("1", report), ("2", Description(modality="SEG")))["modality"] == "SEG"
    assert study(("1", Description()))["modality"] == ""


words = st.sampled_from(["CT", "PT", "MR", "SR", "KO", "OT", "SEG", "", "XX"])


@given(st.lists(st.tuples(st.sampled_from("123"), words), min_size=1, max_size=5))
def test_a_modality_does_not_depend_on_the_order(arrivals: list[tuple[str, str]]) -> None:
    orders = itertools.permutations([(s, Description(modality=m)) for s, m in arrivals])
    found = {
        (one["modality"], *sorted((s["series_uid"], s["modality"]) for s in one["series"]))
        for one in (study(*order) for order in orders)
    }
    assert len(found) == 1


def test_the_most_instances_decide_between_images() -> None:
    assert preferred({"MR": 1, "CT": 2, "SR": 9}) == "CT"
    assert preferred({"MR": 2, "CT": 2}) == "CT"


# -- the patient ---------------------------------------------------------------------------------

OTHERS = [
    Description(patient_name="BETA^TWO", patient_id="B2"),
    Description(patient_name="BETA^TWO"),
    Description(patient_id="B2"),
    Description(patient_birth_date="19800101"),
    Description(patient_sex="M"),
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("series", ["1", "2"])
def test_another_patient_is_marked(other: Description, series: str) -> None:
    found = study(("1", IMAGE), (series, other), ("1", IMAGE))
    assert found["patient_name"] == "SYN^TH"
    assert found["patient_conflict"] is True
    assert [one["instance_count"] for one in found["patients"]] == [2, 1]
    assert found["patients"][0]["patient_id"] == "P1"
    named = found["patients"][1]
    assert named.get("patient_name", "") == other.patient_name
    assert named.get("patient_id", "") == other.patient_id
    marked = [
        one.get("patient")
        for each in found["series"]
        for one in each["instances"]
        if one.get("patient_conflict")
    ]
    assert marked == [2]


def test_another_patient_does_not_fill_this_ones_fields() -> None:
    first, second = Description(patient_name="ALPHA^ONE"), OTHERS[0]
    found = told(("1", first), ("1", second), profile=published)
    published_rules.check("metadata", found)
    assert found["patient"]["id"] == "UNKNOWN"
    assert [one["patient_name"] for one in found["extensions"]["patients"]] == [
        "ALPHA^ONE",
        "BETA^TWO",
    ]
    assert found["extensions"]["patient_conflict"] is True
    assert found["studies"]["series"][0]["instances"][1]["patient_conflict"] is True


@pytest.mark.parametrize(
    "name", ["SYN^TH", "syn^th", "SYN^TH^^^", " SYN ^TH", "SYN^TH=山田^太郎", "", "^^"]
)
def test_spellings_of_a_name_are_no_conflict(name: str) -> None:
    found = study(("1", IMAGE), ("1", Description(patient_name=name, patient_id="P1")))
    assert "patients" not in found
    assert all("patient_conflict" not in one for one in found["series"][0]["instances"])


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_patients_that_are_listed(over: int) -> None:
    count = described.PATIENTS_MAX + over
    found = study(*(("1", Description(patient_id=f"P{n}")) for n in range(count)))
    assert len(found["patients"]) == min(count, described.PATIENTS_MAX)
    marked = [one.get("patient_conflict", False) for one in found["series"][0]["instances"]]
    assert marked == [False] + [True] * (count - 1)
    assert found["series"][0]["instances"][-1].get("patient") == (None if over == 1 else count)


# -- what heads share ----------------------------------------------------------------------------


def shared(**elements: bytes) -> Description:
    """Describes a data set by its head."""
    found = _core.read_head(head(EXPLICIT, **elements), 1)
    assert found is not None
    return describe_series(found.elements)


def test_heads_that_say_the_same_have_one_description() -> None:
    first = shared(t00200013=b"1")
    assert shared(t00200013=b"2") is first
    assert shared(t00100010=b"OTHER") is not first
    assert first.instance_number is None


def test_an_element_that_is_absent_is_not_taken_for_the_one_behind_it() -> None:
    """A remembered description knows which element each value is of."""
    with_name = shared(t00100010=b"X", t00100020=b"")
    with_id = shared(t00100010=b"", t00100020=b"X")
    assert (with_name.patient_name, with_name.patient_id) == ("X", "")
    assert (with_id.patient_name, with_id.patient_id) == ("", "X")


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_descriptions_that_are_remembered(over: int) -> None:
    dataset._remembered.cache_clear()
    for number in range(dataset.DESCRIPTIONS_KEPT + over):
        shared(t00100020=b"%d" % number)
    found = dataset._remembered.cache_info()
    assert found.currsize == min(dataset.DESCRIPTIONS_KEPT + over, dataset.DESCRIPTIONS_KEPT)


# -- control characters --------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["%bSYN^TH", "SYN%b^TH", "SYN^TH%b"])
def test_no_control_character_reaches_a_document(place: str) -> None:
    """In whatever text; UTF-8, so that each is one character and none selects a character set."""
    for control in (*range(0x20), *range(0x7F, 0xA0)):
        check_control(place.encode().replace(b"%b", chr(control).encode()))


def check_control(nasty: bytes) -> None:
    changed = {
        f"t{tag:08X}": nasty
        for tag in (
            dataset.STUDY_DATE, dataset.MODALITY, dataset.STUDY_DESCRIPTION, dataset.PATIENT_NAME,
            dataset.SERIES_DESCRIPTION, dataset.PATIENT_ID, dataset.PATIENT_BIRTH_DATE,
            dataset.PATIENT_SEX, dataset.BODY_PART,
        )
    }  # fmt: skip
    seen = shared(t00080005=b"ISO_IR 192", **changed)
    for profile in (harmony, published):
        text = orjson.dumps(told(("1", seen), ("1", IMAGE), profile=profile)).decode()
        values = list(strings(orjson.loads(text)))
        assert [one for one in values if any(is_control(c) for c in one)] == []
        assert "TH" in text


def strings(value: Any) -> Any:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
