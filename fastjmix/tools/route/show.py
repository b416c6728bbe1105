"""Shows an explanation of a route as lines for a person."""

from __future__ import annotations

from collections.abc import Iterator

from fastjmix.errors import printable
from fastjmix.routing.rules import Rule
from fastjmix.tools.plain_text import table
from fastjmix.tools.route.explaining import Explanation


def lines(found: Explanation, calling_ae: str) -> Iterator[str]:
    """Yields the lines of one endpoint's explanation."""
    listener = found.listener
    of = f"route {listener.route.name}" if listener.route is not None else "no route"
    yield f"endpoint {listener.endpoint} of pipeline {listener.pipeline}: {of}"
    if not found.accepts:
        text = f"  the association is rejected: {calling_ae} is not in aet_table"
        yield printable(text)
    yield from table(
        (f"  {number}", one.rule.name, one.result, one.why)
        for number, one in enumerate(found.steps, 1)
    )
    if found.open:
        yield "at the seal, the first of these that matches the envelope:"
        for rule in found.open:
            yield printable(f"  {_told(found, rule)}")
        yield printable(f"else {_told(found, found.rule)}")
    else:
        yield printable(_told(found, found.rule))


def _told(found: Explanation, rule: Rule | None) -> str:
    """Returns what becomes of the instance by a rule."""
    name = f"rule {rule.name}" if rule is not None else "no rule"
    if rule is not None and rule.action == "reject":
        return f"{name}: rejected with {rule.status:04X}H, {rule.comment!r}"
    if rule is not None and rule.action == "discard":
        return f"{name}: discarded: answered with Success, and kept nowhere"
    said = [f"to {' and '.join(found.upstreams(rule))}"]
    if rule is not None:
        said += [f"priority {rule.priority}"] * (rule.priority != "normal")
        said += [f"tags {', '.join(rule.tags)}"] * bool(rule.tags)
        said += [f"profile {rule.profile}"] * bool(rule.profile)
    return f"{name}: {', '.join(said)}"
