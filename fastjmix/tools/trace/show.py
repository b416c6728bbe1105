"""Shows the story of a word as lines for a person, in the order of time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fastjmix.errors import printable
from fastjmix.ledger.rows import EnvelopeStory, Step, Trace
from fastjmix.tools.plain_text import many, moment, size, speed, table

KINDS: Final = {
    "patient_id": "patient ID",
    "patient_name": "patient name",
    "accession": "accession number",
    "ae": "AE title",
    "peer": "address",
}

CAUSES: Final = {
    "peer": "for the peer",
    "between": "of these between images",
    "packer": "for the packer",
    "disk": "for the disk",
}
"""Waits of an association, by their names in the ledger: `between` is a part of `peer`."""

UNKNOWN: Final = (
    "fastjmix status has the latest rejected associations, fastjmix trace AE-TITLE what came from a"
    " modality"
)

Facts = Mapping[str, Any]


def lines(trace: Trace, *, instances: bool = False) -> Iterator[str]:
    """Yields the lines of a story; with `instances` a line for each of them, too."""
    if not trace.kind:
        yield printable(f"{trace.word}: nothing is known of it; {UNKNOWN}")
        return
    more = ", the newest of more" if trace.more else ""
    if trace.left_out:
        more += f", {many(trace.left_out, 'further association')}"
    yield printable(f"{KINDS.get(trace.kind, trace.kind)} {trace.word}: {_counts(trace)}{more}")
    for story in trace.envelopes:
        yield from _envelope(story)
        if instances:
            yield from _instances(story)
            if story.left_out:
                left_out = many(story.left_out, "further instance")
                yield f"  {left_out}: trace a UID of the envelope"
    yield from table(
        [
            (f"  {moment(step.at)}", step.envelope[:8], step.kind, _told(step))
            for step in trace.steps
        ]
    )


def _counts(trace: Trace) -> str:
    made = many(len(trace.associations), "association")
    if trace.kind in ("ae", "peer"):
        rejected = sum(one.times for one in trace.rejections)
        return f"its latest {made}, {rejected} rejected"
    return f"{many(len(trace.envelopes), 'envelope')}, {made}"


def _envelope(story: EnvelopeStory) -> Iterator[str]:
    row = story.envelope
    why = f" ({row.reason})" if row.reason else ""
    yield printable(f"envelope {row.id}: {row.state} since {moment(row.since)}{why}")
    facts = {
        "study": ", ".join(row.studies),
        "accession": row.accession_number,
        "patient": " ".join(filter(None, (row.patient_id, row.patient_name))),
        "from": " ".join(filter(None, (row.calling_ae, row.peer, row.origin))),
        "to": ", ".join(f"{one.upstream} {one.state}" for one in story.at_upstreams)
        or row.upstream,
        "rule": row.rule,
        "priority": row.priority,
        "tags": ", ".join(row.tags),
        "split into": ", ".join(story.split_into),
    }
    for name, value in facts.items():
        if value:
            yield printable(f"  {name}: {value}")
    if story.part_of:
        yield f"  a part of {story.part_of}"


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
            told = f"{facts['sop_instance_uid']} was answered {facts['status']}: {facts['why']}"
            return told + (f" (association {step.association})" if step.association else "")
        case "rejection":
            return _rejection(facts)
        case "opened":
            return f"from {facts['calling_ae'] or facts['origin']}"
        case "arrived":
            return f"{many(facts['instances'], 'instance')}, by {step.association or 'POST'}"
        case "sealed":
            held = f"{many(facts['instances'], 'instance')}, {size(facts['bytes'])}"
            return f"{held}, for {facts['upstream']}"
        case "attempt":
            return _attempt(facts)
        case "moved":
            return f"to {facts['state']}" + (f": {facts['reason']}" if facts["reason"] else "")
        case "action":
            why = f" ({facts['why']})" if facts["why"] else ""
            return f"{facts['action']} by {facts['actor']}{why}: {facts['result']}"
        case _:
            return ""


def _association(facts: Facts) -> str:
    version = facts["implementation_version"] or facts["implementation_uid"]
    return (
        f"{facts['id']}: {facts['calling_ae']} at {facts['peer']} called {facts['called_ae']}"
        f" ({version})"
    )


def _rejection(facts: Facts) -> str:
    times = f", {facts['times']} times since {moment(facts['at'])}" if facts["times"] > 1 else ""
    return (
        f"{facts['calling_ae']} at {facts['peer']} called {facts['called_ae']}{times}:"
        f" {facts['why']}"
    )


def _ended(facts: Facts) -> str:
    told = (
        f"{facts['id']}: {facts['how']}, {facts['stored']} stored, {facts['refused']} refused,"
        f" {size(facts['bytes'])} in {facts['seconds']:.1f} s"
        f" ({speed(facts['bytes'], facts['seconds'])})"
    )
    waited = ", ".join(
        f"{secs:.1f} s {CAUSES.get(cause, cause)}" for cause, secs in facts["waits"].items() if secs
    )
    if waited:
        told += f"; waited {waited}"
    if facts["p50_ms"] is not None:
        told += f"; answers took {facts['p50_ms']:.1f} ms (p50), {facts['p99_ms']:.1f} ms (p99)"
    return told


def _attempt(facts: Facts) -> str:
    status = f"HTTP {facts['status']}" if facts["status"] else "no answer"
    times = f", {facts['times']} times until {moment(facts['last'])}" if facts["times"] > 1 else ""
    told = f"{facts['upstream']}: {facts['outcome']}, {status}, "
    told += f"{size(facts['bytes'])} in {facts['seconds']:.1f} s"
    if facts["outcome"] == "delivered":  # of another it is not known how much went
        told += f" ({speed(facts['bytes'], facts['seconds'])})"
    told += times
    told += f": {facts['reason']}" if facts["reason"] else ""
    return told + (f"; it said: {facts['answer']}" if facts["answer"] else "")
