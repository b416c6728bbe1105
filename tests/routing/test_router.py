"""The first rule that matches, at the instance and at the seal; and how that is explained."""

from __future__ import annotations

import itertools

from fastjmix.routing import at_seal
from fastjmix.routing.conditions import why_not_envelope, why_not_instance
from fastjmix.routing.router import DECISIONS_KEPT, Router, explained
from fastjmix.routing.rules import (
    EnvelopeConditions,
    EnvelopeFacts,
    InstanceConditions,
    InstanceFacts,
    Route,
    Rule,
)

CT = InstanceConditions(modality=("CT",))
MR = InstanceConditions(modality=("MR",))
BIG = EnvelopeConditions(min_bytes=1000)
HEAD = EnvelopeConditions(study_description=("head*",))


def an_instance(modality: str, calling_ae: str = "A") -> InstanceFacts:
    return InstanceFacts(calling_ae, "B", "127.0.0.1", "1.2", modality, "1.2.840.10008.1.2")


def an_envelope(described: str = "", size: int | None = 10) -> EnvelopeFacts:
    return EnvelopeFacts(described, "", None, size, 1)


def test_the_first_rule_that_matches_applies() -> None:
    first, second = Rule("first", instance=CT), Rule("second")
    decide = Router(Route("r", (first, second))).decide
    assert decide(an_instance("CT")).rule is first
    assert decide(an_instance("MR")).rule is second
    assert Router(Route("r", (first,))).decide(an_instance("MR")).rule is None


def test_rules_that_the_envelope_decides_are_kept_for_the_seal() -> None:
    big = Rule("big", instance=CT, envelope=BIG)
    head = Rule("head", instance=MR, envelope=HEAD)
    rest = Rule("rest", instance=CT)
    found = Router(Route("r", (big, head, rest))).decide(an_instance("CT"))
    assert (found.at_seal, found.rule) == ((big,), rest)


def test_first_match_wins_whatever_the_order_of_both_kinds() -> None:
    """Compared with a plain loop over all rules, for every order of four of them."""
    rules = (
        Rule("big CT", instance=CT, envelope=BIG),
        Rule("head", envelope=HEAD),
        Rule("CT", instance=CT),
        Rule("all"),
    )
    facts = itertools.product(("CT", "MR"), (an_envelope("head", 10), an_envelope("", 5000)))
    every = list(facts)
    for ordered in itertools.permutations(rules):
        router = Router(Route("r", ordered))
        for modality, envelope in every:
            instance = an_instance(modality)
            found = router.decide(instance)
            at_once = at_seal.first(found.at_seal, envelope) or found.rule
            plain = next(
                one
                for one in ordered
                if not why_not_instance(one.instance, instance)
                and not why_not_envelope(one.envelope, envelope)
            )
            assert at_once is plain


def test_decisions_are_kept_to_an_end() -> None:
    router = Router(Route("r", (Rule("ct", instance=CT),)))
    for number in range(DECISIONS_KEPT + 5):
        router.decide(an_instance("CT", calling_ae=str(number)))
    assert router.decide.cache_info().currsize == DECISIONS_KEPT


def test_equal_classes_have_equal_hashes() -> None:
    """A class is a key: of an envelope, and of settings."""
    big, rest = Rule("big", envelope=BIG), Rule("rest")
    one, other = (Router(Route("r", (big, rest))).decide(an_instance("CT")) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != Router(Route("r", (rest,))).decide(an_instance("CT"))


def test_an_explanation_says_what_came_of_each_rule() -> None:
    rules = (
        Rule("mr", instance=MR),
        Rule("head", envelope=HEAD),
        Rule("big", envelope=BIG),
        Rule("ct", instance=CT),
        Rule("all"),
    )
    steps = list(explained(Route("r", rules), an_instance("CT"), an_envelope("knee", None)))
    assert [(one.rule.name, one.result) for one in steps] == [
        ("mr", "no match"),
        ("head", "no match"),
        ("big", "at the seal"),
        ("ct", "applies"),
        ("all", "not reached"),
    ]
    assert steps[0].why == "the modality is CT; the rule's is MR"
    assert steps[2].why == "the bytes: unknown"
