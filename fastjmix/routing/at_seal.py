"""Decides at the seal which rule an envelope goes by; writes and reads those rules as JSON.

Wanted: a process that seals what another one left decides as that one would have, also when the
configuration has changed in between.
Guaranteed: `load` reads what `dump` writes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, get_args

from fastjmix.routing.choices import Priority
from fastjmix.routing.conditions import why_not_envelope
from fastjmix.routing.rules import EnvelopeConditions, EnvelopeFacts, Rule

_NAMES: Final = ("name", "upstreams", "priority", "tags")
_TEXTS: Final = ("study_description", "accession_prefix")


def first(rules: Iterable[Rule], facts: EnvelopeFacts) -> Rule | None:
    """Returns the first of these rules that matches an envelope; None for none."""
    return next((one for one in rules if not why_not_envelope(one.envelope, facts)), None)


def dump(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """Returns the rules as JSON can hold them: what the seal needs of them."""
    return [
        {name: getattr(rule, name) for name in _NAMES} | {"envelope": asdict(rule.envelope)}
        for rule in rules
    ]


def load(found: object) -> tuple[Rule, ...]:
    """Returns the rules of what `dump` made. Raises ValueError for anything else."""
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError("rules are no list")
    return tuple(_rule(one) for one in found)


def _rule(found: object) -> Rule:
    if not isinstance(found, Mapping) or found.keys() != {*_NAMES, "envelope"}:
        raise ValueError("a rule has other keys")
    if not isinstance(found["name"], str) or found["priority"] not in get_args(Priority):
        raise ValueError("a rule's name or priority is none")
    upstreams = _texts(found["upstreams"])
    if not upstreams:
        raise ValueError("a rule has no upstream")
    return Rule(
        name=found["name"],
        envelope=_conditions(found["envelope"]),
        upstreams=upstreams,
        priority=found["priority"],
        tags=_texts(found["tags"]),
    )


def _conditions(found: object) -> EnvelopeConditions:
    names = {one.name for one in fields(EnvelopeConditions)}
    if not isinstance(found, Mapping) or found.keys() != names:
        raise ValueError("a rule's conditions have other keys")
    texts: dict[str, Any] = {name: _texts(found[name]) for name in _TEXTS}
    numbers = {name: found[name] for name in names.difference(_TEXTS)}
    if not all(one is None or type(one) is int for one in numbers.values()):
        raise ValueError("a bound is no number")
    return EnvelopeConditions(**texts, **numbers)


def _texts(found: object) -> tuple[str, ...]:
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ValueError("a list of texts is none")
    return tuple(found)
