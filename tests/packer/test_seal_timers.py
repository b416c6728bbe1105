"""packer/seal_timers.py: when an open envelope is due, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastjmix.packer.seal_timers import SealTimers

RULES: Any = SimpleNamespace(quiet_secs=30.0, release_grace_secs=1.0)


def timers() -> SealTimers:
    """Returns timers of an envelope whose one instance came at 100, by association 1."""
    made = SealTimers(RULES, 0.0)
    made.instance_arrived(1, 100.0)
    return made


def test_an_association_that_stays_has_quiet_secs() -> None:
    one = timers()
    assert (one.due, one.reason) == (130.0, "quiet")
    one.instance_arrived(1, 110.0)
    assert one.due == 140.0


def test_the_grace_begins_with_the_last_release() -> None:
    one = timers()
    one.instance_arrived(2, 105.0)
    one.association_ended(1, 106.0)
    assert (one.due, one.reason) == (135.0, "quiet")
    one.association_ended(2, 107.0)
    assert (one.due, one.reason) == (108.0, "released")
    one.association_ended(3, 109.0)  # it sent nothing to this study
    assert one.due == 108.0


def test_the_grace_is_no_longer_than_quiet_secs() -> None:
    one = timers()
    one.association_ended(1, 129.5)
    assert (one.due, one.reason) == (130.0, "released")


def test_an_instance_ends_the_grace() -> None:
    one = timers()
    one.association_ended(1, 101.0)
    one.instance_arrived(2, 101.5)
    assert (one.due, one.reason) == (131.5, "quiet")


def test_a_calling_ae_title_that_returns_has_quiet_secs_after_each_release() -> None:
    one = timers()
    one.awaits_return = True
    assert (one.due, one.reason) == (130.0, "quiet")
    one.association_ended(1, 120.0)
    assert (one.due, one.reason) == (150.0, "not returned")
