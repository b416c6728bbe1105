"""Shows the story of a word as lines for a person, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastjmix.errors import printable
from fastjmix.ledger.rows import EnvelopeStory, Step, Trace
from fastjmix.tools.plain_text import moment, size, table

KINDS: Final = {
    "patient_id": "patient ID",
    "patient_name": "patient name",
    "accession": "accession number",
}

Facts = Mapping[str, Any]


def lines(trace: Trace, *, instances: bool = False) -> Iterator[str]:
    """Yields the lines of a story; with `instances` a line for each of them, too."""
    if not trace.kind:
        yield printable(f"{trace.word}: nothing is known of it")
        return
    about = f"{len(trace.envelopes)} envelopes, {len(trace.associations)} associations"
    more = ", the newest of more" if trace.more else ""
    more += f", {trace.left_out} further associations" if trace.left_out else ""
    yield printable(f"{KINDS.get(trace.kind, trace.kind)} {trace.word}: {about}{more}")
    for story in trace.envelopes:
        yield from _envelope(story)
        if instances:
            yield from _instances(story)
            if story.left_out:
                yield f"  {story.left_out} further instances: trace a UID of the envelope"
    yield from table(
        [
            (f"  {moment(step.at)}", step.envelope[:8], step.kind, _told(step))
            for step in trace.steps
        ]
    )


def _envelope(story: EnvelopeStory) -> Iterator[str]:
    row = story.envelope
    why = f" ({row.reason})" if row.reason else ""
    yield printable(f"envelope {row.id}: {row.state} since {moment(row.since)}{why}")
    facts = {
        "study": ", ".join(row.studies),
        "accession": row.accession_number,
        "patient": " ".join(filter(None, (row.patient_id, row.patient_name))),
        "from": " ".join(filter(None, (row.calling_ae, row.peer, row.origin))),
        "to": row.upstream,
    }
    for name, value in facts.items():
        if value:
            yield printable(f"  {name}: {value}")


def _instances(story: EnvelopeStory) -> Iterator[str]:
    yield from table(
        (
            f"  {moment(one.arrived)}",
            one.sop_instance_uid,
            one.status,
            size(one.bytes),
            one.association or "-",
            "" if one.kept else "repetition",
        )
        for one in story.instances
    )


def _told(step: Step) -> str:
    """Returns what a step was, in words."""
    facts = step.facts
    match step.kind:
        case "association":
            return _association(facts)
        case "ended":
            return _ended(facts)
        case "refusal":
            return f"{facts['sop_instance_uid']} was answered {facts['status']}: {facts['why']}"
        case "opened":
            return f"from {facts['calling_ae'] or facts['origin']}"
        case "arrived":
            return f"{facts['instances']} instances, by {step.association or 'POST'}"
        case "sealed":
            return (
                f"{facts['instances']} instances, {size(facts['bytes'])}, for {facts['upstream']}"
            )
        case "attempt":
            return _attempt(facts)
        case "moved":
            return f"to {facts['state']}" + (f": {facts['reason']}" if facts["reason"] else "")
        case "action":
            return f"{facts['action']} by {facts['actor']}: {facts['result']}"
        case _:
            return ""


def _association(facts: Facts) -> str:
    version = facts["implementation_version"] or facts["implementation_uid"]
    return (
        f"{facts['id']}: {facts['calling_ae']} at {facts['peer']} called {facts['called_ae']}"
        f" ({version})"
    )


def _ended(facts: Facts) -> str:
    waits = ", ".join(f"{secs:.1f} s for the {who}" for who, secs in facts["waits"].items() if secs)
    return (
        f"{facts['id']}: {facts['how']}, {facts['stored']} stored, {facts['refused']} refused,"
        f" {size(facts['bytes'])} in {facts['seconds']:.1f} s"
        + (f"; waited {waits}" if waits else "")
    )


def _attempt(facts: Facts) -> str:
    status = f"HTTP {facts['status']}" if facts["status"] else "no answer"
    times = f", {facts['times']} times until {moment(facts['last'])}" if facts["times"] > 1 else ""
    told = f"{facts['upstream']}: {facts['outcome']}, {status}, {facts['seconds']:.1f} s{times}"
    why = facts["reason"] or facts["answer"]
    return f"{told}: {why}" if why else told
