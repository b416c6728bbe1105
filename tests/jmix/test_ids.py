"""jmix/ids.py: the one form of an envelope's id."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.jmix.ids import canonical_id, is_id

ID = "01234567-89ab-cdef-0123-456789abcdef"


@given(st.uuids())
def test_an_id_is_what_str_of_a_uuid_is(one: uuid.UUID) -> None:
    assert is_id(str(one))
    assert canonical_id(str(one)) == canonical_id(str(one).upper()) == str(one)


@pytest.mark.parametrize(
    "other",
    ["", ID[1:], ID + "0", ID + "\n", f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""),
     ID.replace("a", "g"), ID.replace("0", "\u0660"), "../../../../etc/passwd", f" {ID}"],
)  # fmt: skip
def test_other_forms_are_no_ids(other: str) -> None:
    assert not is_id(other)
    assert canonical_id(other) is None


def test_upper_case_is_no_id_until_it_is_made_lower_case() -> None:
    assert not is_id(ID.upper())
    assert canonical_id(ID.upper()) == ID


@given(st.text())
def test_a_text_that_is_taken_is_a_uuid(text: str) -> None:
    if (found := canonical_id(text)) is not None:
        assert str(uuid.UUID(found)) == found
