"""Rules that can never match."""

from __future__ import annotations

from typing import Any

import pytest

from fastjmix.routing import coverage
from fastjmix.routing.rules import EnvelopeConditions, InstanceConditions, Rule


def covers(wide: Rule, narrow: Rule) -> bool:
    return coverage.covering((wide, narrow), 1) is wide


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({}, {"calling_ae": ("A",)}),
        ({"calling_ae": ("CT*", "MR1")}, {"calling_ae": ("CT1", "MR1")}),
        ({"modality": ("CT", "MR")}, {"modality": ("ct",), "calling_ae": ("A",)}),
        ({"peer": ("10.0.0.0/8",)}, {"peer": ("10.1.0.0/16", "10.2.3.4/32")}),
        ({"sop_class": ("1.2", "1.3")}, {"sop_class": ("1.3",)}),
    ],
)
def test_an_instance_rule_that_is_as_wide(wide: dict[str, Any], narrow: dict[str, Any]) -> None:
    one, other = InstanceConditions(**wide), InstanceConditions(**narrow)
    assert covers(Rule("a", instance=one), Rule("b", instance=other))
    assert not covers(Rule("b", instance=other), Rule("a", instance=one))


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ({"min_bytes": 10}, {"min_bytes": 20}),
        ({"max_study_age_days": 7}, {"max_study_age_days": 1, "min_study_age_days": 0}),
        ({"accession_prefix": ("A",)}, {"accession_prefix": ("A-1", "AB")}),
        ({"study_description": ("*Head*",)}, {"study_description": ("CT head",)}),
    ],
)
def test_an_envelope_rule_that_is_as_wide(wide: dict[str, Any], narrow: dict[str, Any]) -> None:
    one, other = EnvelopeConditions(**wide), EnvelopeConditions(**narrow)
    assert covers(Rule("a", envelope=one), Rule("b", envelope=other))
    assert not covers(Rule("b", envelope=other), Rule("a", envelope=one))
    assert covers(Rule("all"), Rule("b", envelope=other))


def test_another_family_of_addresses_is_not_covered() -> None:
    one, other = InstanceConditions(peer=("0.0.0.0/0",)), InstanceConditions(peer=("::/0",))
    assert not covers(Rule("a", instance=one), Rule("b", instance=other))
