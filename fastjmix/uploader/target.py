"""Upstreams as this process sees them: their clients, their states, and the envelopes for them.

Guaranteed: one Target for all the pipelines that end at the same upstream. While an upstream is
paused, the oldest envelope whose own time has come probes it. While it is held, each envelope
probes in turn, since the hold may be due to one of them. When it is available again, what was put
off is due, except an envelope that failed again although others were taken (queue.py).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from fastjmix import log
from fastjmix.config import Config, Upstream
from fastjmix.ipc.metrics import Metrics
from fastjmix.uploader import policy
from fastjmix.uploader.answers import in_one_line
from fastjmix.uploader.availability import Availability
from fastjmix.uploader.outcome import Disposition, Outcome
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.queue import Key, Queue, Waiting
from fastjmix.uploader.targets.contract import Client
from fastjmix.uploader.targets.opening import client_of
from fastjmix.uploader.upstream_facts import UpstreamFacts

OWN_FAILURES_MIN: Final = 2
"""Failures of an envelope although others were taken, from which on its failures no longer pause
the upstream by themselves: one is chance."""


class Answered(NamedTuple):
    """When an attempt ended (Unix seconds), its HTTP status if there was one, what it means, and
    what the upstream said where it did not take the envelope."""

    at: float
    status: int | None
    reason: str
    answer: str


@dataclass(slots=True, eq=False)
class Target:
    """One upstream.

    `running` holds the uploads under way. `taken` counts the envelopes that the upstream has
    accepted; `taken_at_hold` is that count when an answer last held it, or refused an envelope.
    `since` is when its availability last changed (Unix seconds), `trouble` the outcome that paused
    or held it last. Both, and `last_answer`, are for people.
    """

    upstream: Upstream
    client: Client
    availability: Availability
    facts: UpstreamFacts
    queue: Queue = field(default_factory=Queue)
    running: dict[asyncio.Task[None], Waiting] = field(default_factory=dict)
    taken: int = 0
    taken_at_hold: int = -1
    since: float = field(default_factory=time.time)
    last_answer: Answered | None = None
    trouble: Answered | None = None

    def log_pairs(self, outcome: Outcome) -> dict[str, str | None]:
        """Returns what the log says of an outcome that is no delivery: the upstream's host where
        there was no answer, else the beginning of the answer."""
        if outcome.answer is None:
            return {"host": self.client.host if outcome.shared else None}
        return {"answer": self.words_of(outcome) or None}

    def words_of(self, outcome: Outcome) -> str:
        """Returns the beginning of the answer for a person, in one line and without our
        credentials; "" where there was none."""
        if outcome.answer is None:
            return ""
        credentials = self.upstream.credentials
        secrets = credentials.repeatable() if credentials is not None else ()
        return in_one_line(outcome.answer, secrets) or ""

    def next_item(self, *, bulk: bool) -> Waiting | None:
        """Takes the envelope that goes next, beside those for which a process waits; one of the
        priority bulk only if `bulk` is True."""
        if self.availability.held is not None:
            return self.queue.pop_probe(bulk=bulk)
        found = self.queue.pop_next(bulk=bulk)
        if found is None and not self.availability.available:
            return self.queue.pop_probe(bulk=bulk)
        return found

    def next_time(self, now: float) -> float | None:
        """Returns when there is something to start that no event announces; None for never."""
        if self.availability.available:
            return self.queue.next_due
        waits = self.queue.has_promised and not self.running and self.availability.until > now
        return self.availability.until if waits else None

    def record_failure(self, item: Waiting, now: float, *, maybe_its_own: bool) -> None:
        """Records a failure. `maybe_its_own`: the envelope may be the cause; others probe first."""
        item.failed_at = now
        if maybe_its_own:
            item.probes += 1
            before = item.taken_at_failure
            item.own_failures += before is not None and self.taken > before
            item.taken_at_failure = self.taken

    def reassess(
        self, item: Waiting, outcome: Outcome, taken_before: int, now: float, route_secs: float
    ) -> Outcome:
        """Returns the outcome in view of the other envelopes.

        `taken_before` is `taken` when the attempt began. An answer that holds the upstream concerns
        this envelope alone when the upstream has taken others since the first such answer. Each
        such finding needs an acceptance of its own: where good and bad answers alternate, one good
        answer proves nothing about many envelopes. The envelope is refused when it has got such
        answers for `route_secs`: a roll-out of the upstream takes a while.
        """
        if item.own_failures >= OWN_FAILURES_MIN:
            outcome = replace(outcome, shared=False)
        if outcome.disposition is not Disposition.HELD or item.awaited:
            return outcome
        if item.taken_at_hold is None:
            item.taken_at_hold, item.held_since = self.taken, now
        since = max(item.taken_at_hold, self.taken_at_hold)
        takes_others = self.availability.held is None and taken_before > since
        final = takes_others and now - item.held_since >= route_secs
        found = policy.reassess(outcome, takes_others=takes_others, final=final)
        if found.disposition is not Disposition.RETRY:
            self.taken_at_hold = self.taken
        return found


Place = tuple[str, str]
"""Pipeline and upstream's name, as a ticket has them."""


class Changes(NamedTuple):
    """The targets that a new configuration has changed: new ones, pairs of an old one and its
    successor, and those without a successor."""

    added: list[Target]
    replaced: list[tuple[Target, Target]]
    removed: list[Target]


class Targets:
    """The targets of this process, by what tickets say."""

    def __init__(
        self,
        upstreams: Mapping[Place, Upstream],
        metrics: Metrics,
        pace: Pace,
        known_facts: Callable[[str], Mapping[str, object] | None],
    ) -> None:
        """Makes the targets. `known_facts(url)` are those of an earlier run."""
        self._metrics = metrics
        self._pace = pace
        self._known_facts = known_facts
        self._each: list[Target] = []
        self._retired: list[Target] = []
        self._by_ticket: dict[Place, Target] = {}
        self.adopt(upstreams)

    def adopt(self, upstreams: Mapping[Place, Upstream]) -> Changes:
        """Makes these the upstreams from now on. Returns the targets that it changed.

        The uploads of a target that is replaced or removed go on: the caller calls `end` when they
        are over. A replaced target's successor has its queue, and is available.
        """
        changes = Changes([], [], [])
        successors = chosen_successors(self._by_ticket, upstreams)
        before, self._each = self._each, []
        for target in before:
            upstream = successors[target]
            if upstream is None:
                changes.removed.append(target)
            elif upstream == target.upstream:
                self._each.append(target)
            else:
                changes.replaced.append((target, self._add(upstream, target)))
        for upstream in upstreams.values():
            if self._with(upstream) is None:
                changes.added.append(self._add(upstream))
        self._retired += [*changes.removed, *(old for old, _ in changes.replaced)]
        found = {place: self._with(upstream) for place, upstream in upstreams.items()}
        self._by_ticket = {place: target for place, target in found.items() if target is not None}
        self._count_held()
        return changes

    def end(self, target: Target) -> None:
        """Forgets a target that is replaced or removed, and has no upload under way."""
        self._retired.remove(target)

    def _with(self, upstream: Upstream) -> Target | None:
        return next((one for one in self._each if one.upstream == upstream), None)

    def _add(self, upstream: Upstream, before: Target | None = None) -> Target:
        known = self._known_facts(upstream.url)
        if before is not None and before.upstream.url == upstream.url:
            known = before.facts.dump()
        facts = UpstreamFacts(upstream.transfer_encoding, known)
        client = client_of(upstream, facts, self._pace)
        available = Availability(self._pace.backoff, self._pace.hold_secs)
        target = Target(upstream, client, available, facts)
        if before is not None:
            target.queue = before.queue
            target.queue.renew()
        self._each.append(target)
        return target

    def __iter__(self) -> Iterator[Target]:
        return iter(self._each)

    def with_retired(self) -> list[Target]:
        """Returns the targets, and those that are replaced or removed and whose uploads go on."""
        return [*self._each, *self._retired]

    def at(self, place: Place) -> Target:
        """Returns the target of a place that is configured. Raises KeyError."""
        return self._by_ticket[place]

    def of(self, pipeline: str, name: str) -> Target | None:
        """Returns the target of an upstream that a ticket names; None when it is not configured."""
        exact = self._by_ticket.get((pipeline, name))
        named = (t for (_, other), t in self._by_ticket.items() if other == name)
        return exact or next(named, None)

    def is_uploading(self, key: Key, name: str | None = None) -> bool:
        """Returns whether an upload of the envelope is under way, to the upstream of this name."""
        targets = self.with_retired()
        return any(
            item.key == key
            for target in targets
            if name is None or target.upstream.name == name
            for item in target.running.values()
        )

    def record(self, target: Target, outcome: Outcome, started: float, now: float) -> None:
        """Records an outcome, and logs when it changes whether the upstream may be tried.

        A damaged archive of ours is no fault of the upstream. An outcome at a target that was
        replaced says nothing about its successor.
        """
        if outcome.damaged or target in self._retired:
            return
        state = target.availability
        was_available, was_held = state.available, state.held is not None
        state.record(outcome, started, now, random.random())
        said = "" if outcome.disposition is Disposition.DELIVERED else target.words_of(outcome)
        answered = Answered(time.time(), outcome.status, outcome.reason, said)
        if outcome.status is not None:
            target.last_answer = answered
        if not state.available:
            target.trouble = answered
        if (was_available, was_held) != (state.available, state.held is not None):
            target.since = answered.at
        target.taken += outcome.disposition is Disposition.DELIVERED
        about = {"upstream": target.upstream.name, "status": outcome.status}
        if state.held is not None and not was_held:
            log.get().error(
                "upstream_held", **about, reason=outcome.reason, **target.log_pairs(outcome)
            )
        elif was_available and not state.available:
            log.get().error(
                "upstream_paused", **about, reason=outcome.reason, **target.log_pairs(outcome)
            )
        elif state.available and not was_available:
            log.get().info("upstream_resumed", upstream=target.upstream.name)
            target.queue.make_due(self._pace.backoff)
        self._count_held()

    def _count_held(self) -> None:
        held = sum(one.availability.held is not None for one in self._each)
        self._metrics.set("upstreams_held", held)


def chosen_successors(
    targets: Mapping[Place, Target], upstreams: Mapping[Place, Upstream]
) -> dict[Target, Upstream | None]:
    """Returns for each target the upstream that takes over all of its envelopes.

    None: there is no such upstream, or the tickets must be read to say which envelope goes where.
    Two targets have no common successor, since a queue has one target.
    """
    chosen: dict[Target, Upstream | None] = {}
    kept = set(upstreams.values())
    for target in sorted(dict.fromkeys(targets.values()), key=lambda one: one.upstream not in kept):
        name = target.upstream.name
        wanted = [upstreams.get(place) for place, one in targets.items() if one is target]
        # A ticket of a pipeline that was not configured went to the upstream of the same name.
        new = [one for place, one in upstreams.items() if place[1] == name and place not in targets]
        same = all(one == wanted[0] for one in (*wanted, *new))
        chosen[target] = wanted[0] if same and wanted[0] not in chosen.values() else None
    return chosen


def upstreams_of(config: Config) -> dict[Place, Upstream]:
    """Returns every upstream of the configuration by (pipeline, upstream's name)."""
    found: dict[tuple[str, str], Upstream] = {}
    for listener in config.listeners:
        for upstream in listener.every_upstream:
            found.setdefault((listener.pipeline, upstream.name), upstream)
    return found
