"""Rules that wait for the seal, in draft.json and back."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from fastjmix.routing import at_seal
from fastjmix.routing.rules import EnvelopeConditions, EnvelopeFacts, InstanceConditions, Rule

RULE = Rule(
    "stat",
    envelope=EnvelopeConditions(study_description=("*trauma*",), max_study_age_days=1),
    upstreams=("a", "b"),
    priority="stat",
    tags=("x",),
)


def test_what_is_written_is_read_again() -> None:
    rules = (RULE, Rule("b", envelope=EnvelopeConditions(min_bytes=1), upstreams=("a",)))
    assert at_seal.load(orjson.loads(orjson.dumps(at_seal.dump(rules)))) == rules
    assert at_seal.load([]) == ()


def test_conditions_that_held_when_the_instance_came_are_left_out() -> None:
    given = replace(RULE, instance=InstanceConditions(modality=("CT",)))
    assert at_seal.load(at_seal.dump([given])) == (RULE,)


@pytest.mark.parametrize(
    "change",
    [
        {"name": 1},
        {"priority": "soon"},
        {"upstreams": []},
        {"upstreams": "a"},
        {"tags": [1]},
        {"envelope": {}},
        {"more": 1},
    ],
)
def test_other_rules_are_refused(change: dict[str, object]) -> None:
    written = at_seal.dump([RULE])
    with pytest.raises(ValueError, match=r"rule|texts|list"):
        at_seal.load([written[0] | change])


def test_a_bound_must_be_a_number() -> None:
    written = at_seal.dump([RULE])
    written[0]["envelope"]["min_bytes"] = True
    with pytest.raises(ValueError, match="bound"):
        at_seal.load(written)
    with pytest.raises(ValueError, match="list"):
        at_seal.load("rules")


def test_the_first_that_matches_the_envelope_is_chosen() -> None:
    other = replace(RULE, name="other", envelope=EnvelopeConditions(min_instances=2))
    trauma = EnvelopeFacts("CT TRAUMA SCAN", "", 0, 10, 2)
    assert at_seal.first((RULE, other), trauma) is RULE
    assert at_seal.first((RULE, other), trauma._replace(study_age_days=None)) is other
    assert at_seal.first((RULE,), trauma._replace(study_age_days=2)) is None
