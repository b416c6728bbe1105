"""The age of a study, from what its date says."""

from __future__ import annotations

from datetime import datetime

import pytest

from fastjmix.routing.rules import EnvelopeConditions, Rule, study_age_days

NOON = datetime(2026, 3, 2, 12).timestamp()


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("20260302", 0),
        ("20260301", 1),
        ("2026.02.28", 2),
        ("20250302", 365),
        ("20260303", -1),
        ("", None),
        ("20261301", None),
        ("2026030", None),
        ("20260302-", None),
        ("²0260302", None),
    ],
)
def test_days_since_the_study(date: str, expected: int | None) -> None:
    assert study_age_days(date, NOON) == expected


def test_a_rule_with_a_condition_on_the_envelope_is_decided_at_the_seal() -> None:
    assert not Rule("a").at_seal
    assert Rule("a", envelope=EnvelopeConditions(min_bytes=0)).at_seal
