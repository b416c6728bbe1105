"""Recovers the drafts left in building/, one at a time, on a thread beside the packer's loop.

Wanted: no association waits while gigabytes are read back, verified and copied.
Guaranteed: recover() runs on the worker's thread (worker.py), in the order of `submit`. Its results
and its failures are handled in the loop, and no failure ends the loop. A draft that the storage or
want of memory stopped is tried again without an end: the pauses grow, and drafts that have not
failed go before it. A draft that a fault of fastjmix stopped is tried once more, and then kept for
a person. The next start recovers the drafts that are left when the process ends.
Still wrong: while it reads, the thread takes turns with the loop at the interpreter, some
milliseconds each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from fastjmix import log
from fastjmix.errors import LimitReached, reason
from fastjmix.ipc.channels import Channels
from fastjmix.packer.member_survey import Damage
from fastjmix.packer.recovery import Outcome, recover
from fastjmix.packer.worker import Worker
from fastjmix.spool import Leftover, Spool

RETRY_SECS: Final = 2.0
RETRY_MAX_SECS: Final = 60.0
"""The pauses before a draft that could not be sealed is tried again: the first, doubling up to the
second."""

FAULTS_MAX: Final = 2
"""Attempts that may end in a fault of fastjmix before a draft is kept for a person. The first may
have a passing cause; the cause of the second is the draft."""


@dataclass(slots=True)
class Recovery:
    """The recovery of one draft.

    `failures`: attempts that the storage or want of memory stopped. `faults`: attempts that a fault
    of fastjmix stopped.
    """

    leftover: Leftover
    failures: int = 0
    faults: int = 0

    @property
    def is_retry(self) -> bool:
        """True when an attempt has failed."""
        return bool(self.failures or self.faults)

    def pause(self) -> float:
        """Returns the seconds until the next attempt after a failure."""
        return min(RETRY_SECS * 2.0 ** min(self.failures, 16), RETRY_MAX_SECS)


class _Backlog:
    """The drafts that are still to be sealed, by id, and the bytes of those to be encrypted."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._to_encrypt: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def bytes_to_encrypt(self) -> int:
        return sum(self._to_encrypt.values())

    def add(self, leftover: Leftover) -> None:
        self._ids.add(leftover.id)
        if leftover.recipe.encrypts:
            self._to_encrypt.setdefault(leftover.id, leftover.size)

    def remove(self, leftover: Leftover) -> None:
        self._ids.discard(leftover.id)
        self._to_encrypt.pop(leftover.id, None)


class _Retries:
    """Recoveries that wait for their next attempt, each until a time in monotonic seconds."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Recovery]] = []

    @property
    def due(self) -> list[float]:
        return [when for when, _ in self._waiting]

    def add(self, recovery: Recovery, pause: float) -> None:
        self._waiting.append((time.monotonic() + pause, recovery))

    def make_due(self) -> None:
        self._waiting = [(-math.inf, recovery) for _, recovery in self._waiting]

    def take(self, now: float = math.inf) -> list[Recovery]:
        """Removes and returns the recoveries that are due by `now`."""
        taken = [recovery for when, recovery in self._waiting if when <= now]
        self._waiting = [one for one in self._waiting if one[0] > now]
        return taken


class RecoveryQueue:
    """The recoveries of the packer called `name`, whose loop settles `worker`.

    `on_failure` is called in the loop with each failure of the storage or want of memory.
    """

    def __init__(
        self,
        spool: Spool,
        channels: Channels,
        name: str,
        worker: Worker,
        on_failure: Callable[[OSError], None],
    ) -> None:
        self._spool = spool
        self._channels = channels
        self._name = name
        self._worker = worker
        self._on_failure = on_failure
        self._log = log.get()
        self._backlog = _Backlog()
        self._retries = _Retries()

    # -- what is to be recovered -----------------------------------------------------------------

    def submit(self, leftover: Leftover) -> None:
        """Recovers a draft as soon as the thread is free."""
        self._backlog.add(leftover)
        self._begin(Recovery(leftover))

    def submit_later(self, leftover: Leftover) -> None:
        """Recovers a draft after RETRY_SECS."""
        self._backlog.add(leftover)
        self._retries.add(Recovery(leftover), RETRY_SECS)

    @property
    def count(self) -> int:
        """The number of drafts that are still to be sealed."""
        return len(self._backlog)

    @property
    def to_encrypt(self) -> int:
        """The bytes of those drafts that are on the disk twice while they are sealed."""
        return self._backlog.bytes_to_encrypt

    @property
    def due(self) -> list[float]:
        """When attempts are due, in monotonic seconds: nothing wakes the loop for them."""
        return self._retries.due

    def retry_due(self) -> None:
        """Begins the attempts that are due by now."""
        for recovery in self._retries.take(time.monotonic()):
            self._begin(recovery)

    def make_due(self) -> None:
        """Makes all attempts due: the storage works again."""
        self._retries.make_due()

    def finish(self) -> None:
        """Waits for the thread, and makes one more attempt at each draft that failed."""
        self._worker.drain()
        for recovery in self._retries.take():
            self._begin(recovery)
        self._worker.drain()
        for recovery in self._retries.take():
            leftover = recovery.leftover
            if leftover.held is not None:
                self._log.error(
                    "envelope_lost",
                    envelope=leftover.id,
                    bytes=leftover.end,
                    why="its directory is gone, and there was none to save it in",
                )

    def _begin(self, recovery: Recovery) -> None:
        work = partial(recover, self._spool, recovery.leftover, self._name)
        self._worker.submit(work, partial(self._ended, recovery), retry=recovery.is_retry)

    # -- how an attempt ended --------------------------------------------------------------------

    def _ended(self, recovery: Recovery, result: Callable[[], Outcome]) -> None:
        try:
            outcome = result()
        except OSError as problem:
            self._failed(recovery, problem)
        except MemoryError:
            self._failed(recovery, LimitReached("no memory for it"))
        except Exception as problem:
            self._faulted(recovery, problem)
        else:
            self._succeeded(recovery.leftover, outcome)

    def _failed(self, recovery: Recovery, problem: OSError) -> None:
        recovery.failures += 1
        pause = recovery.pause()
        about = {"envelope": recovery.leftover.id, "again_in": pause}
        self._log.error("recovery_failed", **about, why=reason(problem))
        self._retries.add(recovery, pause)
        self._on_failure(problem)

    def _faulted(self, recovery: Recovery, problem: Exception) -> None:
        leftover = recovery.leftover
        recovery.faults += 1
        if recovery.faults < FAULTS_MAX:
            about = {"envelope": leftover.id, "again_in": RETRY_SECS}
            self._log.error("recovery_failed", **about, exc_info=problem)
            self._retries.add(recovery, RETRY_SECS)
            return
        self._log.error("envelope_damaged", envelope=leftover.id, exc_info=problem)
        try:
            self._spool.drafts.reject(leftover, repr(problem))
        except OSError as failure:
            self._failed(recovery, failure)
            return
        self._backlog.remove(leftover)
        self._channels.metrics.add("envelopes_rejected_total")

    def _succeeded(self, leftover: Leftover, outcome: Outcome) -> None:
        self._backlog.remove(leftover)
        for damage in outcome.damages:
            self._report_damage(leftover, damage)
        if outcome.fresh is not None:
            if outcome.fresh.id != leftover.id:
                self._log.warning("envelope_moved", envelope=leftover.id, to=outcome.fresh.id)
            self.submit(outcome.fresh)
        elif outcome.ticket is not None:
            self._channels.metrics.add("envelopes_recovered_total")
            if outcome.unwritten:
                self._channels.metrics.add("provenances_unwritten_total")
            self._log.warning(
                "envelope_recovered",
                envelope=outcome.ticket.id,
                instances=outcome.ticket.instances,
                bytes=outcome.ticket.size_bytes,
                rule=outcome.ticket.rule or None,
                study=log.get().study(*outcome.ticket.studies),
            )
            self._channels.events.send("sealed", envelope=outcome.ticket.id)
        # Always: a seal that failed after its last rename has not woken the outbox watcher.
        self._channels.wake_uploader()

    def _report_damage(self, leftover: Leftover, damage: Damage) -> None:
        self._channels.metrics.add("members_damaged_total")
        self._log.error(
            "member_damaged",
            envelope=leftover.id,
            member=damage.name or None,
            offset=damage.start,
            bytes=damage.end - damage.start,
            why=damage.why,
            kept=f"rejected/{leftover.id}.zip",
        )
