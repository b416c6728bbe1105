"""Runs the uploads: starts what may start, and leads each from its ticket to its outcome.

Guaranteed: an envelope runs once at a time. An unavailable upstream is tried by one envelope at a
time. A fault of ours in one upload costs the others nothing. When the process stops, the envelopes
under way stay in outbox/, except those for which a process waits: these are withdrawn and reported.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket, reason
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import Spool, Ticket
from fastjmix.spool.holds import Holds
from fastjmix.uploader.attempt import attempt
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.finishing import Finishing
from fastjmix.uploader.hooking import Hooking, Stopped
from fastjmix.uploader.moves import log_once
from fastjmix.uploader.outbox_watcher import read_ticket
from fastjmix.uploader.outcome import Disposition, Failure, Kind, Outcome
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.policy import assess_failure
from fastjmix.uploader.queue import RANKS, Key, Waiting, key_of
from fastjmix.uploader.schedule import open_to, secs_to_look_again
from fastjmix.uploader.size_limit import TOO_LARGE
from fastjmix.uploader.target import Target, Targets

NOT_CONFIGURED: Final = "its upstream was removed from the configuration: send it again"

WIND_UP_SECS: Final = 0.01
"""An envelope may be due again before the task of its last attempt is over."""


class Deliveries:
    """The uploads under way. `wake` is called when one is over, `learned` after each outcome.

    `clock` returns Unix seconds, for the targets' schedules.
    """

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        targets: Targets,
        backlog: Backlog,
        finishing: Finishing,
        hooking: Hooking,
        pace: Pace,
        *,
        wake: Callable[[], None],
        learned: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._spool = spool
        self._metrics = metrics
        self._uploads = metrics.histogram("upload_seconds")
        self._targets = targets
        self._backlog = backlog
        self._finishing = finishing
        self._hooking = hooking
        self._holds = Holds(spool)
        self._pace = pace
        self._wake = wake
        self._learned = learned
        self._refusing: set[asyncio.Task[None]] = set()

    def start(self, target: Target) -> float | None:
        """Starts what may start; returns when to try again if nothing happens before."""
        now = asyncio.get_running_loop().time()
        state, queue = target.availability, target.queue
        queue.wake(now)
        while queue.awaited and len(target.running) < self._pace.at_once_to(target.upstream):
            item = queue.pop_awaited()
            held = state.held
            if held is not None and not state.allows_awaited(now, len(target.running)):
                self._run(target, item, self._finishing.finish(target, item, held, 0.0))
            else:
                self._run(target, item, self._upload(target, item))
        is_open, bulk = (
            open_to(target.upstream.allowance, bulk=one, now=self._clock()) for one in (False, True)
        )
        while is_open and self._may_start(target, now):
            chosen = target.next_item(bulk=bulk)
            if chosen is None:
                break
            if not self._backlog.waits_for(chosen.key, target):
                continue  # it has left outbox/, or ended there
            if self.is_busy(chosen.key, target.upstream.name):
                queue.put_off(chosen, now + WIND_UP_SECS)
            else:
                self._run(target, chosen, self._upload(target, chosen))
        if not (is_open and bulk) and queue.has_promised:
            looked = now + secs_to_look_again(self._clock())
            return min(looked, target.next_time(now) or looked) if is_open else looked
        return target.next_time(now)

    def refuse_orphans(self) -> None:
        """Answers the processes that wait for an upstream which is not configured any more. Nothing
        was promised of these envelopes."""
        orphans, self._backlog.orphans = self._backlog.orphans, []
        for item in orphans:
            task = asyncio.create_task(self._refuse(item))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)

    async def _refuse(self, item: Waiting) -> None:
        log.get().warning("envelope_withdrawn", envelope=item.id, reason=NOT_CONFIGURED)
        await self._finishing.withdraw(item, Outcome(Disposition.RETRY, NOT_CONFIGURED))
        self._backlog.forget(item.key)

    def is_busy(self, key: Key, name: str | None = None) -> bool:
        """Returns whether an envelope is uploaded or moved now; with `name` because of the upstream
        of this name."""
        return self._finishing.moves.is_moving(key, name) or self._targets.is_uploading(key, name)

    async def reject_damaged(self, envelope_id: str, why: str) -> None:
        """Rejects an envelope that the scrub has found damaged before its turn came.

        An upload that is under way finds the damage, too.
        """
        key = key_of(envelope_id)
        try:
            ticket = await asyncio.to_thread(read_ticket, self._spool, envelope_id)
        except (OSError, DamagedTicket):
            return  # it left, or the outbox watcher reports its ticket
        targets = (self._targets.of(ticket.pipeline, name) for name in ticket.upstreams)
        waiting = (one for one in targets if one and self._backlog.waits_for(key, one))
        target = next(waiting, None)
        if target is None or self.is_busy(key):
            return
        self._backlog.known.discard(key)
        outcome = assess_failure(Failure(Kind.DAMAGED, why))
        damaged = Waiting(key, 0, maybe_stored=False)
        await self._finishing.finish(target, damaged, outcome, 0.0, ticket)

    async def stop(self) -> None:
        """Gives uploads under way a little time, and withdraws envelopes that are waited for."""
        targets = self._targets.with_retired()
        running = {t: item for target in targets for t, item in target.running.items()}
        waiting = [item for target in self._targets for _, item in target.queue.awaited]
        await self._finishing.moves.stop()
        await self._hooking.stop()
        if running:
            _, late = await asyncio.wait(running, timeout=self._pace.stop_secs)
            for task in late:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        stopped = Outcome(Disposition.RETRY, "fastjmix is stopping")
        for item in (*running.values(), *waiting):
            if item.awaited and not item.reported:
                await self._finishing.withdraw(item, stopped)
        for target in targets:
            await target.client.close()

    def _may_start(self, target: Target, now: float) -> bool:
        """Returns whether another upload may start for which no process waits."""
        running = len(target.running)
        at_once = self._pace.at_once_to(target.upstream)
        free = running < at_once and not self._finishing.moves.full
        return free and target.availability.allows(now, running)

    def _run(self, target: Target, item: Waiting, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        target.running[task] = item

        def over(done: asyncio.Task[None]) -> None:
            del target.running[done]
            self._wake()
            if not done.cancelled() and (problem := done.exception()) is not None:
                log.get().error("upload_abandoned", envelope=item.id, exc_info=problem)
                item.maybe_stored = True  # anything may have happened before this fault of ours
                self._put_off(target, item)

        task.add_done_callback(over)

    async def _upload(self, target: Target, item: Waiting) -> None:
        now = asyncio.get_running_loop().time
        started, taken_before = now(), target.taken
        archive = self._spool.path("outbox", item.id)
        ticket = None
        try:
            ticket = await asyncio.to_thread(read_ticket, self._spool, item.id)
            if (stopped := await self._hooking.check(ticket)) is not None:
                await self._stop(target, item, ticket, stopped)
                return
            outcome = await attempt(target.client, item, archive, ticket)
        except FileNotFoundError:
            log.get().warning("envelope_gone", envelope=item.id)
            self._backlog.forget(item.key)
            return
        except (OSError, DamagedTicket) as problem:
            if not item.awaited:
                self._skip(target, item, problem)
                return
            outcome = assess_failure(Failure(Kind.LOCAL, reason(problem)))
        except Exception as problem:  # ours; others wait, and this one may do better later
            log.get().error("upload_fault", envelope=item.id, exc_info=problem)
            outcome = assess_failure(Failure(Kind.LOCAL, type(problem).__name__))
        item.maybe_stored = item.maybe_stored or outcome.maybe_stored
        outcome = target.reassess(item, outcome, taken_before, now(), self._pace.route_secs)
        self._targets.record(target, outcome, started, now())
        if ticket is not None:
            _learn_size(target, outcome, ticket.size_bytes)
        self._learned()
        self._uploads.observe(now() - started)
        await self._finishing.finish(target, item, outcome, now() - started, ticket)

    async def _stop(self, target: Target, item: Waiting, ticket: Ticket, by: Stopped) -> None:
        """Rejects an envelope that a hook vetoes; puts it on hold where a hook has failed. An
        envelope for which a process waits is withdrawn then."""
        if by.vetoed or item.awaited:
            disposition = Disposition.REFUSED if by.vetoed else Disposition.RETRY
            outcome = Outcome(disposition, by.reason, maybe_stored=False, vetoed=by.vetoed)
            await self._finishing.finish(target, item, outcome, 0.0, ticket)
            return
        found = (self._targets.of(ticket.pipeline, name) for name in ticket.upstreams)
        targets = [one for one in found if one is not None]
        if not self._backlog.hold(item.key, targets, RANKS.index(ticket.priority)):
            return  # the attempt at another upstream has had the same answer
        try:
            await asyncio.to_thread(self._holds.put, item.id, f"hook {by.hook}", by.reason)
        except FileExistsError:
            pass  # a person was quicker
        except OSError as problem:  # on hold until a restart, after which the hook runs again
            log_once(item, "spool_step_failed", problem)

    def _skip(self, target: Target, item: Waiting, problem: OSError | DamagedTicket) -> None:
        """Leaves an envelope that cannot be read now for later, so that the others go.

        The outbox watcher finds one with a damaged ticket, logs it, and looks at it again.
        """
        if isinstance(problem, DamagedTicket):
            self._backlog.forget(item.key)
            return
        self._put_off(target, item)
        self._metrics.add("uploads_failed_total")
        log_once(item, "envelope_unreadable", problem)

    def _put_off(self, target: Target, item: Waiting) -> None:
        item.failures += 1
        delay = self._pace.backoff.delay(item.failures, random.random())
        target.queue.put_off(item, asyncio.get_running_loop().time() + delay)


def _learn_size(target: Target, outcome: Outcome, size: int) -> None:
    """Notes what an outcome says about the size that an upstream takes."""
    limit, name = target.facts.size_limit, target.upstream.name
    if outcome.status == TOO_LARGE and limit.record_refused(size):
        most = limit.max_envelope_bytes
        log.get().warning("upstream_limit_learnt", upstream=name, max_envelope_bytes=most)
    elif outcome.disposition is Disposition.DELIVERED and limit.record_taken(size):
        log.get().info("upstream_limit_lifted", upstream=name, bytes=size)
