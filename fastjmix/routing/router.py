"""Decides by which rules of a route an instance goes: the first that matches.

Guaranteed: an instance that is not rejected or discarded belongs to a class: the rules that its
envelope decides, and the rule that applies where none of those matches. Instances of one study and
one class share an envelope, so that all of it goes by one rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from fastjmix.routing.conditions import why_not_envelope, why_not_instance
from fastjmix.routing.rules import EnvelopeFacts, InstanceFacts, Route, Rule

DECISIONS_KEPT: Final = 1024
"""Decisions that are kept, by the facts of instances: a modality sends few different ones. A peer
may invent AE titles, so the number is bounded."""


@dataclass(frozen=True, slots=True)
class RouteClass:
    """The class of an instance. `at_seal` are rules of which the first that matches the envelope
    applies; else `rule`. None: no rule matches, and the pipeline's own settings apply."""

    at_seal: tuple[Rule, ...] = ()
    rule: Rule | None = None

    def __hash__(self) -> int:
        """Returns a hash of the rules' names: it is needed for each instance."""
        last = self.rule.name if self.rule is not None else None
        return hash((last, *(one.name for one in self.at_seal)))


class Router:
    """The rules of one route, ready to decide."""

    def __init__(self, route: Route) -> None:
        self._rules = route.rules
        self.decide = lru_cache(maxsize=DECISIONS_KEPT)(self._decide)

    def _decide(self, facts: InstanceFacts) -> RouteClass:
        """Returns the class of an instance with these facts."""
        at_seal: list[Rule] = []
        for rule in self._rules:
            if why_not_instance(rule.instance, facts):
                continue
            if not rule.at_seal:
                return RouteClass(tuple(at_seal), rule)
            at_seal.append(rule)
        return RouteClass(tuple(at_seal))


# -- explained -------------------------------------------------------------------------------------

Result = Literal["applies", "no match", "at the seal", "not reached"]


class Step(NamedTuple):
    """A rule and what came of it. `why`: the condition that does not hold, or that is not known
    before the seal; "" for a rule that matches."""

    rule: Rule
    result: Result
    why: str


def explained(route: Route, instance: InstanceFacts, envelope: EnvelopeFacts) -> Iterator[Step]:
    """Yields what comes of each rule for an instance, as far as it is known of its envelope.

    A number of the envelope that is None is not known before the seal.
    """
    ended = False
    for rule in route.rules:
        why = why_not_instance(rule.instance, instance)
        known = why or why_not_envelope(rule.envelope, _as_far_as_known(rule, envelope))
        if ended:
            yield Step(rule, "not reached", "")
        elif known:
            yield Step(rule, "no match", known)
        elif unknown := why_not_envelope(rule.envelope, envelope):
            yield Step(rule, "at the seal", unknown)
        else:
            ended = True
            yield Step(rule, "applies", "")


def _as_far_as_known(rule: Rule, facts: EnvelopeFacts) -> EnvelopeFacts:
    """Returns the facts with sizes that meet the rule's conditions in place of unknown ones."""
    given = rule.envelope

    def fitting(found: int | None, low: int | None, high: int | None) -> int | None:
        return found if found is not None else low if low is not None else high

    return facts._replace(
        bytes=fitting(facts.bytes, given.min_bytes, given.max_bytes),
        instances=fitting(facts.instances, given.min_instances, given.max_instances),
    )
