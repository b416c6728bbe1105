"""tools/tune/verdict.py: what measurements say, and how sure that is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.tools.tune import effects, paste


def test_ratios_are_made_within_a_round() -> None:
    """A machine that is three times slower in one round says nothing about the setting."""
    seen = effects.effect([1.0, 3.0, 1.0, 1.1, 1.0], [0.8, 2.4, 0.8, 0.88, 0.8])
    assert seen.saved == pytest.approx(0.2)
    assert seen.noise == pytest.approx(0, abs=1e-9)
    assert seen.pays
    assert not effects.effect([1.0, 1.0], [0.5, 0.5]).pays  # too few rounds
    assert not effects.effect([1.0] * 5, [0.98] * 5).pays  # not worth a line
    assert not effects.effect([1.0] * 5, [0.5, 1.5, 0.9, 1.2, 0.7]).pays  # noise
    assert effects.effect([], []).rounds == 0


@settings(deadline=None)  # the machine may be busy
@given(st.integers(0, 2**32))
def test_noise_holds_the_truth_as_often_as_it_says(seed: int) -> None:
    """Two equal settings on a machine with outliers: nothing is said to pay, but rarely."""
    chance = random.Random(seed)

    def series() -> list[float]:
        return [chance.lognormvariate(0, 0.3) for _ in range(chance.randint(5, 25))]

    paying = sum(effects.effect(series(), series()).pays for _ in range(200))
    assert paying <= 30


def test_the_sites_own_tables_are_named() -> None:
    main: dict[str, Any] = {"endpoints": {"scp": {}}}
    pipeline = {
        "pipelines": {"p": {"middleware": {"left": ["none", "pack"]}}},
        "middleware": {"none": {"type": "passthru"}, "pack": {"type": "jmix_builder"}},
    }
    where = paste.places([("config.toml", main), ("pipelines/p.toml", pipeline)], "p", "scp")
    assert where.table("digest") == ("pipelines/p.toml", "middleware.pack.options")
    assert where.table("max_pdu") == ("config.toml", "endpoints.scp.options")
    assert where.table("packers") == ("config.toml", "fastjmix")
