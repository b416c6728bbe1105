"""Runs the process outbox → upstream → sent. Retry, back-off; the only process that holds the
token.

Wants outbox/ (spool.py), an upstream for each pipeline, and Links. Guarantees: no envelope leaves
outbox/ but by an answer of its upstream (to sent/ or rejected/), or, with ack = "uploaded", by a
failure that is reported to whoever waits; oldest first; a failing upstream is asked by one envelope
at a time; nothing is ever given up for age or number of attempts; no damaged archive arrives as a
whole one (integrity.py). One attempt is attempt.py's, HTTP is spoken in client.py, what answers
mean is decided in policy.py, what an upstream has shown of itself is in upstream_facts.py, files
are moved in spool.py. outbox_watcher.py finds new envelopes, and queue.py keeps them small (a
ticket is read when its turn comes); work beside uploads is in maintenance.py.

max_retries bounds only the quick retries of an envelope (1 s, 2 s, 4 s …); after them the back-off
window is its cap at once. A stored envelope is promised: it is retried for ever.

Still wrong: how often an envelope was tried is known to this process only; after a restart the
count begins at 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import uvloop

from fastjmix import log
from fastjmix.config import Config, Upstream
from fastjmix.errors import DamagedTicket, reason
from fastjmix.ipc.channels import Links
from fastjmix.spool import Room, Spool, Ticket
from fastjmix.uploader import policy
from fastjmix.uploader.attempt import Attempt
from fastjmix.uploader.client import Courier, Patience
from fastjmix.uploader.maintenance import SCRUB_AGE_SECS, Keep, Upkeep
from fastjmix.uploader.outbox_watcher import Arrivals, read_ticket
from fastjmix.uploader.outcomes import Reports
from fastjmix.uploader.policy import Backoff, Failure, Gate, Kind, Outcome, Verdict
from fastjmix.uploader.queue import Key, Target, Waiting, key_of
from fastjmix.uploader.upstream_facts import UpstreamFacts
from fastjmix.uploader.upstream_memory import UpstreamMemory

UPLOADS_AT_ONCE: Final = 4
"""Per upstream. One hides neither the round trip nor the upstream's own fsync; more than a few only
share the same line, and each holds a connection and a few chunks."""

STEPS_MAX: Final = 256
"""Envelopes whose upload is over, and whose move in the spool is tried again. Without this bound a
spool that cannot be written would have all of outbox/ uploaded, each with a task of 4 KB, and
uploaded again after a restart."""

WIND_UP_SECS: Final = 0.01
"""An envelope may be due again before the task of its last attempt is over."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds and intervals in seconds; the defaults are the product's."""

    at_once: int = UPLOADS_AT_ONCE
    patience: Patience = field(default_factory=Patience)
    backoff: Backoff = field(default_factory=Backoff)
    hold_secs: float = 60.0  # between probes of an upstream that wants other credentials
    route_secs: float = 10.0  # of such answers to one envelope while others are taken: a verdict
    rescan_secs: float = 60.0  # a person put something there: who dies has its bell rung for it
    upkeep_secs: float = 60.0
    scrub_age_secs: float = SCRUB_AGE_SECS
    stop_secs: float = 3.0  # for uploads under way when the drain begins


class Uploader:
    """Moves envelopes from outbox/ to their upstreams until `Links.stop` is readable."""

    def __init__(
        self,
        upstreams: Mapping[tuple[str, str], Upstream],
        spool: Spool,
        links: Links,
        *,
        pace: Pace | None = None,
        keep: Keep | None = None,
    ) -> None:
        """`upstreams` is by (pipeline, upstream's name), as in tickets; `keep` bounds sent/."""
        self._spool = spool
        self._links = links
        self._pace = pace or Pace()
        secs = (self._pace.upkeep_secs, self._pace.scrub_age_secs)
        self._upkeep = Upkeep(spool, keep or Keep(), self._condemn, *secs)
        self._reports = Reports(links)
        self._memory = UpstreamMemory(spool)
        self._targets: dict[tuple[str, str], Target] = {}
        self._each: list[Target] = []
        for key, upstream in upstreams.items():
            self._targets[key] = self._target_of(upstream)
        self._known: set[Key] = set()
        self._arrivals = Arrivals(
            spool, self._known, self._runs, self._take_in, self._pace.rescan_secs
        )
        self._steps: dict[Key, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._stopping = False
        self._fault: BaseException | None = None

    def _target_of(self, upstream: Upstream) -> Target:
        """One target for all the pipelines that end at the same upstream."""
        for target in self._each:
            if target.upstream == upstream:
                return target
        pace = self._pace
        courier = Courier(upstream, pace.patience, pace.at_once)
        facts = UpstreamFacts(upstream.transfer_encoding, self._memory.of(upstream.url))
        target = Target(upstream, courier, Gate(pace.backoff, pace.hold_secs), facts)
        self._each.append(target)
        return target

    # -- the loop ----------------------------------------------------------------------------

    def stop(self) -> None:
        """Begins the drain: no new upload starts."""
        self._stopping = True
        self._news.set()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._links.outbox_bell)
        self._arrivals.bell.set()

    async def serve(self) -> None:
        """Runs until stopped; then gives uploads under way a little time, and returns."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._links.outbox_bell, False)
        loop.add_reader(self._links.outbox_bell, self._ring)
        loop.add_reader(self._links.stop, self.stop)
        works = (
            self._arrivals.watch(),
            self._upkeep.tend(),
            self._upkeep.scrub(),
            self._memory.keep(self._each),
        )
        chores = [asyncio.create_task(work) for work in works]
        try:
            for chore in chores:
                chore.add_done_callback(self._chore_ended)
            while not self._stopping:
                self._news.clear()
                times = [self._start(target) for target in self._each]
                wake = min((when for when in times if when is not None), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(wake):
                        await self._news.wait()
                if self._fault is not None:
                    raise self._fault  # ours: the supervisor starts this process again
        finally:
            loop.remove_reader(self._links.outbox_bell)
            loop.remove_reader(self._links.stop)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await self._wind_up()
            await self._memory.save(self._each)

    def _chore_ended(self, chore: asyncio.Task[None]) -> None:
        if not chore.cancelled():
            self._fault = chore.exception()
            self._news.set()

    def _start(self, target: Target) -> float | None:
        """Starts what may start; returns when to look again if nothing happens before."""
        now = asyncio.get_running_loop().time()
        target.wake(now)
        while target.awaited and len(target.running) < self._pace.at_once:
            # Someone waits for the answer now: only a hold is stronger than that.
            _, item = heapq.heappop(target.awaited)
            held = target.gate.held
            if held is not None and not target.gate.admits_awaited(now, len(target.running)):
                self._run(target, item, self._settle(target, item, held, 0.0))
            else:
                self._run(target, item, self._upload(target, item))
        while self._may_start(target, now):
            chosen = target.next_item()
            if chosen is None:
                break
            if chosen.key in self._known and not self._runs(chosen.key):
                self._run(target, chosen, self._upload(target, chosen))
            elif chosen.key in self._known:
                target.put_off(chosen, now + WIND_UP_SECS)  # the last attempt has yet to return
        return target.next_time(now)

    def _may_start(self, target: Target, now: float) -> bool:
        """Tells whether another of those that nobody waits for may be uploaded."""
        running = len(target.running)
        free = running < self._pace.at_once and len(self._steps) < STEPS_MAX
        return free and target.gate.admits(now, running)

    def _runs(self, key: Key) -> bool:
        if key in self._steps:
            return True
        return any(item.key == key for target in self._each for item in target.running.values())

    def _run(self, target: Target, item: Waiting, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        target.running[task] = item

        def over(done: asyncio.Task[None]) -> None:
            del target.running[done]
            self._news.set()
            if not done.cancelled() and (problem := done.exception()) is not None:
                log.get().error("upload_abandoned", envelope=item.id, exc_info=problem)
                self._try_again(target, item)

        task.add_done_callback(over)

    def _try_again(self, target: Target, item: Waiting) -> None:
        """After a fault of ours at a point where anything may have happened."""
        item.doubtful = True
        item.failures += 1
        delay = self._pace.backoff.delay(item.failures, random.random())
        target.put_off(item, asyncio.get_running_loop().time() + delay)

    async def _wind_up(self) -> None:
        """What has not come to its end stays in outbox/, unless someone waits to hear of it."""
        running = {t: item for target in self._each for t, item in target.running.items()}
        waiting = [item for target in self._each for _, item in target.awaited]
        steps = list(self._steps.values())
        for step in steps:
            step.cancel()  # each has failed before, and is finished or done again by a successor
        await asyncio.gather(*steps, return_exceptions=True)
        if running:
            _, late = await asyncio.wait(running, timeout=self._pace.stop_secs)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        stopped = Outcome(Verdict.RETRY, "fastjmix is stopping")
        for item in (*running.values(), *waiting):
            if item.awaited and not item.told:
                await self._step(item, partial(self._spool.withdraw, item.id))
                await self._reports.send(item, stopped)
        for target in self._each:
            await target.courier.close()

    # -- what is waiting ---------------------------------------------------------------------

    def _take_in(self, found: Sequence[tuple[str, Ticket]], *, doubtful: bool) -> None:
        """`doubtful`: they were there when this process began."""
        strangers: dict[str, list[str]] = {}
        for envelope_id, ticket in found:
            key = key_of(envelope_id)
            self._known.add(key)
            target = self._target(ticket)
            if target is not None:
                origin = ticket.origin if ticket.awaited else None
                target.take_in(key, origin, doubtful=doubtful)
            else:
                strangers.setdefault(ticket.upstream, []).append(envelope_id)
        for upstream, ids in strangers.items():
            log.get().error(
                "upstream_unknown",
                upstream=upstream,
                envelope=ids[0],
                count=len(ids),
                hint="configure an upstream of that name; until then they stay in outbox/",
            )
        self._tell_waiting()
        self._news.set()
        if found:
            self._upkeep.stir()

    def _tell_waiting(self) -> None:
        waiting = len(self._known) + self._arrivals.unreadable
        self._links.stats.set("outbox_envelopes", waiting)

    def _target(self, ticket: Ticket) -> Target | None:
        """Returns the target of a ticket; None when its upstream is not configured."""
        exact = self._targets.get((ticket.pipeline, ticket.upstream))
        named = (t for (_, name), t in self._targets.items() if name == ticket.upstream)
        return exact or next(named, None)

    def _forget(self, item: Waiting) -> None:
        self._known.discard(item.key)
        self._tell_waiting()
        self._upkeep.stir()

    # -- one attempt -------------------------------------------------------------------------

    async def _upload(self, target: Target, item: Waiting) -> None:
        now = asyncio.get_running_loop().time
        started, taken_before = now(), target.taken
        attempt = Attempt(target, item, self._spool.path("outbox", item.id), self._pace.backoff.cap)
        ticket = None
        try:
            ticket = await asyncio.to_thread(read_ticket, self._spool, item.id)
            outcome = await attempt.run(ticket)
        except FileNotFoundError:
            log.get().warning("envelope_gone", envelope=item.id)
            self._forget(item)
            return
        except (OSError, DamagedTicket) as problem:
            if not item.awaited:
                self._skip(target, item, problem)
                return
            outcome = policy.without_answer(Failure(Kind.LOCAL, reason(problem)))
        except Exception as problem:  # ours; but others wait, and this one may do better later
            log.get().error("upload_fault", envelope=item.id, exc_info=problem)
            outcome = policy.without_answer(Failure(Kind.LOCAL, type(problem).__name__))
        item.doubtful = item.doubtful or outcome.doubtful
        outcome = target.weigh(item, outcome, taken_before, now(), self._pace.route_secs)
        self._tell_gate(target, outcome, started, now())
        size = ticket.size_bytes if ticket is not None else 0
        self._memory.learned.set()
        await self._settle(target, item, outcome, now() - started, size)

    def _skip(self, target: Target, item: Waiting, problem: OSError | DamagedTicket) -> None:
        """Skips an archive or a ticket that cannot be read now: the others go, and it is tried
        later.
        """
        if isinstance(problem, DamagedTicket):
            self._forget(item)  # outbox_watcher.py finds it, tells of it, and looks at it again
            return
        item.failures += 1
        delay = self._pace.backoff.delay(item.failures, random.random())
        target.put_off(item, asyncio.get_running_loop().time() + delay)
        self._links.stats.add("uploads_failed_total")
        self._tell_once(item, "envelope_unreadable", problem)

    def _tell_once(self, item: Waiting, event: str, problem: OSError | DamagedTicket) -> None:
        """Logs a problem once, though it comes back with each attempt."""
        why = reason(problem)
        if item.problem != why:
            item.problem = why
            log.get().error(event, envelope=item.id, problem=why)

    def _tell_gate(self, target: Target, outcome: Outcome, started: float, now: float) -> None:
        if outcome.damaged:
            return  # that says nothing about the upstream
        gate = target.gate
        was_open, was_held = gate.open, gate.held is not None
        gate.told(outcome, started, now, random.random())
        target.taken += outcome.verdict is Verdict.DELIVERED
        about = {"upstream": target.upstream.name, "status": outcome.status}
        if gate.held is not None and not was_held:
            log.get().error("upstream_held", **about, reason=outcome.reason)
        elif was_open and not gate.open:
            log.get().error("upstream_paused", **about, reason=outcome.reason)
        elif gate.open and not was_open:
            log.get().info("upstream_resumed", upstream=target.upstream.name)
            target.back(self._pace.backoff)
        self._links.stats.set("upstreams_held", sum(t.gate.held is not None for t in self._each))

    # -- what comes of it --------------------------------------------------------------------

    async def _settle(
        self, target: Target, item: Waiting, outcome: Outcome, secs: float, size: int = 0
    ) -> None:
        told = {
            "envelope": item.id,
            "upstream": target.upstream.name,
            "status": outcome.status,
            "attempt": item.attempts,
            "secs": f"{secs:.3f}",
        }
        url, now = target.upstream.url, time.time()
        spool, stats = self._spool, self._links.stats
        if outcome.verdict is Verdict.DELIVERED:
            other = outcome.remote_id if outcome.remote_id != item.id else None
            log.get().info("envelope_uploaded", **told, bytes=size, remote_id=other)
            receipt = policy.receipt(outcome, url=url, attempts=item.attempts, at=now)

            def delivered() -> None:
                self._upkeep.delivered(item.id)
                stats.add("envelopes_uploaded_total")
                stats.add("upload_bytes_total", size)

            await self._move(item, outcome, lambda: spool.deliver(item.id, receipt), delivered)
        elif outcome.verdict is Verdict.REFUSED:
            log.get().error("envelope_rejected", **told, reason=outcome.reason)
            refusal = policy.refusal(outcome, url=url, attempts=item.attempts, at=now)
            rejected = partial(stats.add, "envelopes_rejected_total")
            await self._move(item, outcome, lambda: spool.reject(item.id, refusal), rejected)
        elif item.awaited:
            log.get().warning("envelope_withdrawn", **told, reason=outcome.reason)
            failed = partial(stats.add, "uploads_failed_total")
            await self._move(item, outcome, lambda: spool.withdraw(item.id), failed)
        else:
            again = self._put_off(target, item, outcome)
            log.get().warning(
                "upload_retry", **told, again_in=f"{again:.1f}", reason=outcome.reason
            )
            stats.add("uploads_failed_total")

    def _put_off(self, target: Target, item: Waiting, outcome: Outcome) -> float:
        """Queues the envelope for later; returns in how many seconds it may go.

        It asks earlier when its turn comes to see whether the upstream is back, or when it is.
        """
        now = asyncio.get_running_loop().time()
        pause = max(0.0, target.gate.until - now)
        unreachable = outcome.shared and not outcome.doubtful
        target.failed(item, now, perhaps_its_own=not unreachable)
        if unreachable or outcome.verdict is Verdict.HELD:
            delay = pause
        else:
            item.failures += 1
            # An answer that one envelope alone gets has nothing to do with an upstream that is
            # down.
            quick = target.upstream.max_retries if item.held_then is None else None
            delay = self._pace.backoff.delay(
                item.failures, random.random(), least=outcome.least_secs, quick=quick
            )
        target.put_off(item, now + delay)
        return max(delay, pause)

    async def _move(
        self,
        item: Waiting,
        outcome: Outcome,
        step: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        """Does a step on disk, and then `done`; whoever waits hears after the first attempt."""
        moved = await self._step(item, step)
        await self._reports.send(item, outcome)
        if moved:
            done()
            self._forget(item)
            return
        # It is repeated beside the uploads: this one's trouble may last, and others wait.
        task = asyncio.create_task(self._repeat(item, step, done))
        self._steps[item.key] = task

        def over(_: asyncio.Task[None]) -> None:
            del self._steps[item.key]
            self._news.set()  # it made place for an upload

        task.add_done_callback(over)

    async def _repeat(
        self, item: Waiting, step: Callable[[], None], done: Callable[[], None]
    ) -> None:
        """Repeats a step until the disk lets it."""
        for failures in itertools.count(1):
            await asyncio.sleep(self._pace.backoff.delay(failures, random.random()))
            if await self._step(item, step):
                break
        done()
        self._forget(item)

    async def _step(self, item: Waiting, step: Callable[[], None]) -> bool:
        """False when the step has to be tried again."""
        try:
            await asyncio.to_thread(step)
        except FileNotFoundError:
            log.get().warning("envelope_gone", envelope=item.id)
        except (OSError, DamagedTicket) as problem:
            self._tell_once(item, "spool_step_failed", problem)
            return False
        except Exception as problem:  # ours; somebody may wait to hear of the outcome
            log.get().error("spool_step_failed", envelope=item.id, exc_info=problem)
            return False
        return True

    async def _condemn(self, envelope_id: str, why: str) -> None:
        """The upkeep has found an envelope damaged, before its turn came."""
        key = key_of(envelope_id)
        with contextlib.suppress(OSError, DamagedTicket):
            target = self._target(await asyncio.to_thread(read_ticket, self._spool, envelope_id))
            if target is None or key not in self._known or self._runs(key):
                return  # an attempt finds it, too
            self._known.discard(key)  # its place in a queue is passed over
            outcome = policy.without_answer(Failure(Kind.DAMAGED, why))
            await self._settle(target, Waiting(key, 0, doubtful=False), outcome, 0.0)


# -- the process -----------------------------------------------------------------------------------


def upstreams(config: Config) -> dict[tuple[str, str], Upstream]:
    """Every upstream of the configuration by what tickets say: (pipeline, upstream's name)."""
    found = {(one.pipeline, one.upstream.name): one.upstream for one in config.dicom}
    for listener in config.http:
        if listener.upstream is not None:
            found.setdefault((listener.pipeline, listener.upstream.name), listener.upstream)
    return found


def run(config: Config, spool: Spool, links: Links) -> None:
    """The forked child: returns when the drain is over. Logging is set up by the caller.

    SIGTERM is the same as Links.stop, unless it is ignored when this is called: the supervisor,
    which drains in order, sees to that, because systemd signals the whole group. SIGINT, which a
    terminal sends to the whole group, is left to the supervisor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spool.take_over("uploader")
    uvloop.run(_main(config, spool, links))


def one_line(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Logs what the loop has to report of a task or a future that nobody waits for any more.

    As of a connection that was reset while its body was sent: asyncio's own way is a traceback.
    """
    log.get().warning("loop_problem", told=context["message"], exc_info=context.get("exception"))


async def _main(config: Config, spool: Spool, links: Links) -> None:
    asyncio.get_running_loop().set_exception_handler(one_line)
    uploader = Uploader(
        upstreams(config),
        spool,
        links,
        keep=Keep(
            config.runtime.retention_secs,
            config.runtime.retention_bytes,
            Room.of(config, links.stats),
            config.runtime.queue_alarm_secs,
        ),
    )
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, uploader.stop)
    await uploader.serve()
