"""The facts of an association, whatever its peer calls itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastjmix._core import ASSOCIATION_FACTS_MAX
from fastjmix.spool.association_facts import FACTS_BYTES_MAX, AssociationFacts

latin = st.text(st.characters(max_codepoint=255), max_size=64)
title = st.text(st.characters(max_codepoint=255), max_size=16)


def test_a_lane_has_space_for_them() -> None:
    assert FACTS_BYTES_MAX == ASSOCIATION_FACTS_MAX


@given(title, title, latin, latin)
def test_they_fit_whatever_a_peer_says(calling: str, called: str, uid: str, name: str) -> None:
    facts = AssociationFacts("19a2f0b1c3d-12345", calling, called, "10.0.0.1:65535", uid, name, 1.5)
    text = facts.dump()
    assert len(text) <= FACTS_BYTES_MAX
    again = AssociationFacts.load(text)
    assert again is not None
    assert (again.id, again.peer, again.began) == (facts.id, facts.peer, facts.began)
    assert calling.startswith(again.calling_ae)
    assert uid.startswith(again.implementation_uid)


@given(st.binary(max_size=200))
def test_other_texts_are_none(text: bytes) -> None:
    assert AssociationFacts.load(text) is None


def test_a_fact_of_another_type_is_none() -> None:
    good = AssociationFacts("1-2").as_json()
    assert AssociationFacts.of(good) == AssociationFacts("1-2")
    for name, wrong in (("id", 1), ("began", "x"), ("began", True), ("peer", "x" * 200)):
        assert AssociationFacts.of(good | {name: wrong}) is None
    assert AssociationFacts.of(good | {"more": ""}) is None
