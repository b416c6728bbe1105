"""tools/tune/plan.py: which settings are tried, and which first."""

from __future__ import annotations

import pytest

from fastjmix.tools.tune import plan
from fastjmix.tools.tune.plan import Setting, Trial
from tests.tools.test_tune import BASE, OFF, changed


@pytest.mark.parametrize("base", [BASE, OFF, changed(digest="blake3", max_pdu=65536, packers=3)])
@pytest.mark.parametrize("processors", [1, 2, 8])
def test_the_plan_goes_around_the_configured_setting(base: Setting, processors: int) -> None:
    trials = plan.plan(base, processors)
    assert trials[0] == Trial("configured", base)
    names = [one.name for one in trials]
    assert len(set(names)) == len(names)
    changes = [one.setting.changes(base) for one in trials]
    assert all(len(one) <= 2 for one in changes)
    single = [set(one) for one in changes if len(one) == 1]
    for factor in {"skip_hashing", "durability", "max_pdu"}:
        assert {factor} in single
    assert ({"digest"} in single) is (not base.skip_hashing)
    assert all(16_384 <= one.setting.max_pdu <= 131_072 for one in trials)
    assert all(1 <= one.setting.packers <= max(processors, base.packers) for one in trials)
    bare = changed(base, skip_hashing=True, durability="page-cache")
    assert bare in [one.setting for one in trials] or not bare.changes(base)


def test_a_profile_that_knows_one_digest() -> None:
    trials = plan.plan(BASE, 2, any_digest=False)
    assert {one.setting.digest for one in trials} == {BASE.digest}
    assert len({one.name for one in trials}) == len(trials) > 3


def test_a_digest_that_is_not_made_is_no_difference() -> None:
    assert changed(skip_hashing=True, digest="blake3").changes(BASE) == {"skip_hashing": True}
    assert plan.named(changed(skip_hashing=True, packers=2), BASE) == "skip_hashing=true, packers=2"


def test_a_budget_cuts_off_the_least_telling() -> None:
    trials = plan.plan(BASE, 2)
    assert plan.fit(trials, 0.001, 0.001, 60) == list(trials)
    assert plan.fit(trials, 1.0, 1.0, 30) == list(trials[:4])  # 7 s each
    assert plan.fit(trials, 100, 1, 1) == list(trials[:1])
    assert plan.another(0, 100, -1)
    assert not plan.another(1, 1.0, 0.5)  # the time counts, however few rounds there were
    assert plan.another(plan.MIN_ROUNDS - 1, 1.0, 1.5, settled=True)
    assert not plan.another(plan.MIN_ROUNDS, 1.0, 1.5, settled=True)
    assert plan.another(plan.MIN_ROUNDS, 1.0, 1.5)
    assert not plan.another(plan.MIN_ROUNDS, 1.0, 0.5)
    assert not plan.another(plan.MAX_ROUNDS, 0.0, 100)


def test_each_has_its_turn_to_begin() -> None:
    orders = [plan.in_turn("abc", turn) for turn in range(6)]
    assert [sorted(order) for order in orders] == [["a", "b", "c"]] * 6
    assert {order[0] for order in orders} == set("abc")
    assert len({tuple(order) for order in orders}) == 6
