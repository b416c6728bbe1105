"""Finds rules that can never match, because an earlier rule matches all that they would.

Guaranteed: a rule that is named can never match. One that several earlier rules cover together is
not found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastjmix.routing import glob
from fastjmix.routing.conditions import network
from fastjmix.routing.rules import Rule


def covering(rules: Sequence[Rule], index: int) -> Rule | None:
    """Returns the first rule before rules[index] that matches all that this one would; None for
    none."""
    return next((one for one in rules[:index] if _covers(one, rules[index])), None)


def _covers(wide: Rule, narrow: Rule) -> bool:
    """Returns True when each condition of `wide` follows from those of `narrow`."""
    one, other = wide.instance, narrow.instance
    mine, yours = wide.envelope, narrow.envelope
    return (
        _any_of(one.calling_ae, other.calling_ae, glob.covers)
        and _any_of(one.called_ae, other.called_ae, glob.covers)
        and _any_of(one.peer, other.peer, _contains)
        and _any_of(one.sop_class, other.sop_class, str.__eq__)
        and _any_of(one.modality, other.modality, _same_word)
        and _any_of(one.transfer_syntax, other.transfer_syntax, str.__eq__)
        and _any_of(mine.study_description, yours.study_description, _word_covers)
        and _any_of(mine.accession_prefix, yours.accession_prefix, _is_prefix)
        and _low(mine.min_study_age_days, yours.min_study_age_days)
        and _high(mine.max_study_age_days, yours.max_study_age_days)
        and _low(mine.min_bytes, yours.min_bytes)
        and _high(mine.max_bytes, yours.max_bytes)
        and _low(mine.min_instances, yours.min_instances)
        and _high(mine.max_instances, yours.max_instances)
    )


def _any_of(wide: Sequence[str], narrow: Sequence[str], covers: Callable[[str, str], bool]) -> bool:
    """Returns True when each value of `narrow` is covered by one of `wide`, or `wide` has none."""
    if not wide:
        return True
    return bool(narrow) and all(any(covers(one, value) for one in wide) for value in narrow)


def _low(wide: int | None, narrow: int | None) -> bool:
    return wide is None or (narrow is not None and narrow >= wide)


def _high(wide: int | None, narrow: int | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)


def _same_word(wide: str, narrow: str) -> bool:
    return wide.casefold() == narrow.casefold()


def _word_covers(wide: str, narrow: str) -> bool:
    return glob.covers(wide.casefold(), narrow.casefold())


def _is_prefix(wide: str, narrow: str) -> bool:
    return narrow.startswith(wide)


def _contains(wide: str, narrow: str) -> bool:
    one, other = network(wide), network(narrow)
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]
