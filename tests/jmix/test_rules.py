"""jmix/read/rules.py: what documents must be."""

from __future__ import annotations

import pytest

from fastjmix.jmix.read import rules


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_departures_from_a_rule(off: int) -> None:
    count = rules.BROKEN_MAX + off
    found = rules.broken(rules.Array(rules.TEXT), [0] * count, "x")
    assert len(found) == min(count, rules.BROKEN_MAX)
