"""Checks of the rules of a route together, and what of them can never match.

Guaranteed: a rule that rejects, discards, or has a profile of its own stands before those that the
envelope decides: an instance has been answered, and its member named, before its envelope is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import orjson

from fastjmix.config import tree
from fastjmix.config.faults import shown
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.route_rules import key_of
from fastjmix.config.table_checks import Entry
from fastjmix.routing import at_seal, coverage
from fastjmix.routing.glob import matches
from fastjmix.routing.rules import InstanceConditions, Route, Rule

AT_SEAL_BYTES_MAX: Final = 1 << 18
"""Bytes of the rules that are decided at the seal, as JSON. draft.json has 1 MB at most."""

_TOO_LATE: Final = (
    '"accept" without profile: an instance is answered, and named in its envelope, before the seal'
)


def check(references: References, entry: Entry, rules: Sequence[Rule]) -> None:
    """Notes the faults and warnings of a route's rules, which stand in the table `entry`."""
    _check_names(references, entry, rules)
    _check_order(references, entry, rules)
    _check_size(references, entry, rules)
    _warn(references, entry, rules)


def _check_names(references: References, entry: Entry, rules: Sequence[Rule]) -> None:
    for number, rule in enumerate(rules):
        if rule.name in (one.name for one in rules[:number]):
            _fault(references, entry, number, "name", f"{shown(rule.name)} again", "each name once")


def _check_order(references: References, entry: Entry, rules: Sequence[Rule]) -> None:
    """Notes a fault for a rule that comes too late: see this module's docstring."""
    decider: Rule | None = None
    for number, rule in enumerate(rules):
        if rule.at_seal and decider is None:
            decider = rule
        if decider is None or (rule.action == "accept" and not rule.profile):
            continue
        key, value = (
            ("action", rule.action) if rule.action != "accept" else ("profile", rule.profile)
        )
        if rule.at_seal:
            why = "conditions on the envelope, which is known when it is sealed"
            found = f'"{value}", and the rule has {why}'
            _fault(references, entry, number, key, found, _TOO_LATE)
        else:
            found = f'"{value}", behind rule {shown(decider.name)}, which is decided at the seal'
            _fault(references, entry, number, key, found, f"{_TOO_LATE}: put it before that rule")


def _check_size(references: References, entry: Entry, rules: Sequence[Rule]) -> None:
    """Notes a fault for more rules at the seal than the file of a draft should hold."""
    size = len(orjson.dumps(at_seal.dump(one for one in rules if one.at_seal)))
    if size > AT_SEAL_BYTES_MAX:
        found = f"{size} bytes of rules that are decided at the seal"
        right = f"{AT_SEAL_BYTES_MAX} or fewer: each envelope that is packed keeps them"
        references.fault(entry, "options.rules", found, right)


def _warn(references: References, entry: Entry, rules: Sequence[Rule]) -> None:
    for number, rule in enumerate(rules):
        place = f"{entry.path}.{key_of(number, '')[:-1]}, {shown(rule.name)}"
        wide = coverage.covering(rules, number)
        if wide is not None:
            references.findings.warn(
                f"{place}: never matches: rule {shown(wide.name)} before it matches all that it"
                " would"
            )
        elif rule.action != "accept" and rule.instance == InstanceConditions():
            references.findings.warn(
                f"{place}: it has no condition, and {rule.action}s every instance that comes to it"
            )


def _fault(
    references: References, entry: Entry, number: int, key: str, found: str, right: str
) -> None:
    references.fault(entry, key_of(number, key), found, right)


def warn_of_callers(
    references: References,
    pipeline: Pipeline,
    route: Route,
    listeners: Iterable[tree.DicomListener],
) -> None:
    """Warns of rules for AE titles that no listener of the pipeline accepts."""
    every = list(listeners)
    if not every:
        return
    titles = {title for one in every for title in one.calling or ()}
    called = {one.ae_title for one in every}
    anyone = any(one.calling is None for one in every)
    any_called = any(one.accept_any_called_aet for one in every)
    for rule in route.rules:
        for noun, wanted, known, free in (
            ("calling AE title", rule.instance.calling_ae, titles, anyone),
            ("called AE title", rule.instance.called_ae, called, any_called),
        ):
            if free or not wanted or any(matches(one, title) for one in wanted for title in known):
                continue
            where = "in aet_table" if known is titles else "that an endpoint has"
            references.findings.warn(
                f"{pipeline.entry.path}: rule {shown(rule.name)} never matches: no {noun} {where}"
                f" is {' or '.join(wanted)}"
            )
