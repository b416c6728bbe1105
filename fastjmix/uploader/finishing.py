"""Brings an envelope to the place that the outcome of its attempt asks for.

    DELIVERED          outbox/ → sent/, with the receipt
    REFUSED            outbox/ → rejected/, with the refusal
    the same, of several upstreams: the end is recorded; the last one moves it (spool/ending.py)
    others, awaited    deleted: nothing was promised, and its sender gets a failure
    others             back into its queue

Guaranteed: no envelope leaves outbox/ in another way. A process that waits gets the outcome after
the first try to move the envelope (moves.py).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import assert_never

from fastjmix import log
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import Ends, Spool, Ticket
from fastjmix.spool.ending import Place
from fastjmix.spool.ends import pending
from fastjmix.spool.ticket import End
from fastjmix.uploader import receipts
from fastjmix.uploader.backlog import Backlog, Found
from fastjmix.uploader.history import History
from fastjmix.uploader.moves import Moves, step
from fastjmix.uploader.outcome import Disposition, Outcome
from fastjmix.uploader.queue import Key, Waiting
from fastjmix.uploader.reports import Reports
from fastjmix.uploader.retry import Backoff
from fastjmix.uploader.target import Target


class Finishing:
    """Envelopes whose attempt is over. `moves` are those that the disk has not let through yet.

    `delivered(id)` is called for each envelope that has come to sent/; `wake` when a move that was
    tried again is over, so that another upload may start. `is_uploading(key, name)`: is an upload
    of that envelope to the upstream of that name under way?
    """

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        backlog: Backlog,
        reports: Reports,
        history: History,
        backoff: Backoff,
        *,
        delivered: Callable[[str], None],
        wake: Callable[[], None],
        is_uploading: Callable[[Key, str], bool],
    ) -> None:
        self._spool = spool
        self._ends = Ends(spool)
        self._metrics = metrics
        self._backlog = backlog
        self._reports = reports
        self._history = history
        self._backoff = backoff
        self._delivered = delivered
        self._is_uploading = is_uploading
        self.moves = Moves(backlog, reports, backoff, wake)
        self._deliveries = metrics.histogram("delivery_seconds")

    async def finish(
        self,
        target: Target,
        item: Waiting,
        outcome: Outcome,
        secs: float,
        ticket: Ticket | None = None,
    ) -> None:
        """Finishes an attempt that took `secs`. `ticket` is None where it was not read."""
        size = ticket.size_bytes if ticket is not None else 0
        study = log.get().study(*ticket.studies) if ticket is not None else None
        about = _about(target, item, outcome, secs)
        why = {"reason": outcome.reason, **target.log_pairs(outcome), "study": study}
        self._history.attempted(target, item, outcome, secs, size)
        url, now = target.upstream.url, time.time()
        match outcome.disposition:
            case Disposition.DELIVERED:
                other = outcome.remote_id if outcome.remote_id != item.id else None
                pairs = {**about, "bytes": size, "remote_id": other, "study": study}
                log.get().info("envelope_uploaded", **pairs)
                kept = receipts.receipt(outcome, url=url, attempts=item.attempts, at=now)
                await self._end(target, item, outcome, ticket, {"receipt": kept})
            case Disposition.REFUSED:
                log.get().error("envelope_rejected", **about, **why)
                said = target.words_of(outcome)
                kept = receipts.refusal(outcome, url=url, attempts=item.attempts, at=now, said=said)
                await self._end(target, item, outcome, ticket, {"refusal": kept})
            case Disposition.HELD | Disposition.RETRY | Disposition.VERIFY if item.awaited:
                log.get().warning("envelope_withdrawn", **about, **why)
                move = step(partial(self._spool.withdraw, item.id), "gone")
                counted = partial(self._count_withdrawn, item, outcome)
                await self.moves.begin(target, item, outcome, move, counted)
            case Disposition.HELD | Disposition.RETRY | Disposition.VERIFY:
                again = f"{self._put_off(target, item, outcome):.1f}"
                log.get().warning("upload_retry", **about, again_in=again, **why)
                self._metrics.add("uploads_failed_total")
            case _:
                assert_never(outcome.disposition)

    async def withdraw(self, item: Waiting, outcome: Outcome) -> None:
        """Deletes an envelope for which a process waits, and reports the outcome."""
        if await self.moves.attempt(item, step(partial(self._spool.withdraw, item.id), "gone")):
            self._history.moved(item.id, "gone", outcome.reason)
        await self._reports.send(item, outcome)

    async def _end(
        self, target: Target, item: Waiting, outcome: Outcome, ticket: Ticket | None, end: End
    ) -> None:
        """Moves an envelope that has ended, or records its end at one of several upstreams."""
        if ticket is not None and len(ticket.upstreams) > 1:
            await self._end_of_several(target, item, outcome, ticket, end)
        elif "receipt" in end:
            move = step(partial(self._spool.deliver, item.id, end["receipt"]), "sent")
            counted = partial(self._count_delivered, item, ticket)
            await self.moves.begin(target, item, outcome, move, counted)
        else:
            move = step(partial(self._spool.reject, item.id, end["refusal"]), "rejected")
            counted = partial(self._count_rejected, item, outcome)
            await self.moves.begin(target, item, outcome, move, counted)

    async def _end_of_several(
        self, target: Target, item: Waiting, outcome: Outcome, ticket: Ticket, end: End
    ) -> None:
        """Records the end. No upstream gets an archive that is damaged, that a hook vetoes, or of
        which a process that waited was told that the first upstream has refused it."""
        names = [target.upstream.name]
        if outcome.damaged or outcome.vetoed:
            others = self._backlog.waits_elsewhere(item.key, target)
            names += [name for name in others if not self._is_under_way(item.key, name)]
        ((kind, kept),) = end.items()
        ends: dict[str, End] = {name: {kind: {"upstream": name, **kept}} for name in names}
        last = item.awaited and kind == "refusal"
        move = partial(self._ends.record, item.id, ends, last=last)
        self._backlog.end(item.key, *ends)
        done = partial(self._count_end, item, outcome, ticket, ends)
        await self.moves.begin(target, item, outcome, move, done)

    def _is_under_way(self, key: Key, name: str) -> bool:
        return self.moves.is_moving(key, name) or self._is_uploading(key, name)

    def _count_end(
        self,
        item: Waiting,
        outcome: Outcome,
        ticket: Ticket,
        ends: Mapping[str, End],
        state: Place,
    ) -> None:
        if state == "rejected":
            self._count_rejected(item, outcome, state)
        elif state == "sent":
            self._count_delivered(item, ticket, state)
        elif state == "outbox" and outcome.disposition is Disposition.DELIVERED:
            self._metrics.add("upload_bytes_total", ticket.size_bytes)
            if item.awaited:  # the process that waited has its answer: the others get it now
                left = Found(item.id, ticket, pending(ticket, ends))
                self._backlog.add([left], maybe_stored=False)

    def _count_delivered(self, item: Waiting, ticket: Ticket | None, _: Place) -> None:
        self._delivered(item.id)
        self._history.moved(item.id, "sent", "delivered")
        self._metrics.add("envelopes_uploaded_total")
        if ticket is not None:
            self._metrics.add("upload_bytes_total", ticket.size_bytes)
            self._deliveries.observe(max(0.0, time.time() - ticket.sealed_at))

    def _count_rejected(self, item: Waiting, outcome: Outcome, _: Place) -> None:
        self._history.moved(item.id, "rejected", outcome.reason)
        self._metrics.add("envelopes_rejected_total")

    def _count_withdrawn(self, item: Waiting, outcome: Outcome, _: Place) -> None:
        self._history.moved(item.id, "gone", outcome.reason)
        self._metrics.add("uploads_failed_total")

    def _put_off(self, target: Target, item: Waiting, outcome: Outcome) -> float:
        """Queues the envelope for later; returns in how many seconds it may go.

        It goes earlier when it is its turn to probe the upstream, or when the upstream is back.
        """
        now = asyncio.get_running_loop().time()
        pause = max(0.0, target.availability.until - now)
        unreachable = outcome.shared and not outcome.maybe_stored
        target.record_failure(item, now, maybe_its_own=not unreachable)
        if unreachable or outcome.disposition is Disposition.HELD:
            delay = pause
        else:
            item.failures += 1
            # max_retries is for an upstream that is down, and not for answers that one envelope
            # alone gets.
            quick = target.upstream.max_retries if item.taken_at_hold is None else None
            delay = self._backoff.delay(
                item.failures, random.random(), least=outcome.least_secs, quick=quick
            )
        target.queue.put_off(item, now + delay)
        return max(delay, pause)


def _about(target: Target, item: Waiting, outcome: Outcome, secs: float) -> dict[str, object]:
    """Returns the pairs that each line about an attempt begins with."""
    return {
        "envelope": item.id,
        "upstream": target.upstream.name,
        "status": outcome.status,
        "attempt": item.attempts,
        "secs": f"{secs:.3f}",
    }
