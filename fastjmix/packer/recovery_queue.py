"""Recovers the drafts left in building/ beside the packer's loop, one at a time.

Wanted: no association waits while gigabytes are read back, verified and copied.
Guaranteed: recover() runs aside (worker.py), in the order of `give`; what comes of it is judged in
the loop, which is woken for it, and which no failure of it ends. A draft that the disk or the
memory did not let through is tried again as long as it takes, with a pause that grows, and behind
those that have not failed; one that a fault of ours befell, once more, and then it is kept for a
person. The next start recovers the drafts that are left when the process ends.
Still wrong: while it reads, it takes turns with the loop at the interpreter, a few ms each.
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
from fastjmix.ipc.channels import Links
from fastjmix.packer.recovery import Outcome, recover
from fastjmix.packer.worker import Aside
from fastjmix.spool import Leftover, Spool

RETRY_SECS: Final = 2.0
RETRY_MAX_SECS: Final = 60.0
"""An envelope that could not be sealed (a full disk) is tried again: after the first, doubling up
to the second."""

FAULTS_MAX: Final = 2
"""Attempts that may end in a fault of ours before a draft is kept for a person: it may have been
the moment's, and is the draft's if it comes again."""


@dataclass(slots=True)
class _Case:
    """A draft that was left, and how often its recovery failed: for the disk or for memory, and by
    a fault of ours."""

    leftover: Leftover
    failures: int = 0
    faults: int = 0

    def pause(self) -> float:
        """Seconds until it is tried again."""
        return min(RETRY_SECS * 2.0 ** min(self.failures, 16), RETRY_MAX_SECS)


class Mending:
    """Of the packer called `name`, whose loop settles `aside`. `blame` hears of each failure of the
    disk, in the loop."""

    def __init__(
        self, spool: Spool, links: Links, name: str, aside: Aside, blame: Callable[[OSError], None]
    ) -> None:
        self._spool = spool
        self._links = links
        self._name = name
        self._aside = aside
        self._blame = blame
        self._log = log.get()
        self._sizes: dict[str, int] = {}
        self._given: set[str] = set()
        self._retries: list[tuple[float, _Case]] = []

    def give(self, leftover: Leftover) -> None:
        """Seals a draft that was left, soon."""
        self._count(leftover)
        self._begin(_Case(leftover))

    def _begin(self, case: _Case) -> None:
        work = partial(recover, self._spool, case.leftover, self._name)
        again = bool(case.failures or case.faults)
        self._aside.begin(work, partial(self._judge, case), again=again)

    def _count(self, leftover: Leftover) -> None:
        self._given.add(leftover.id)
        if leftover.recipe.encrypts:
            self._sizes.setdefault(leftover.id, leftover.size)

    @property
    def to_encrypt(self) -> int:
        """Bytes of the drafts that will be there a second time while they are sealed."""
        return sum(self._sizes.values())

    @property
    def count(self) -> int:
        """Number of drafts that are to be sealed."""
        return len(self._given)

    def hurry(self) -> None:
        """Makes those that wait for another try due at the next `tend`: the storage is well
        again."""
        self._retries = [(-math.inf, case) for _, case in self._retries]

    def give_later(self, leftover: Leftover) -> None:
        """Does the same after RETRY_SECS."""
        self._count(leftover)
        self._wait(_Case(leftover), RETRY_SECS)

    def _wait(self, case: _Case, pause: float) -> None:
        self._retries.append((time.monotonic() + pause, case))

    @property
    def due(self) -> list[float]:
        """When there is something to do again, in monotonic seconds; nothing wakes for it."""
        return [when for when, _ in self._retries]

    def tend(self) -> None:
        """What is to be tried again by now."""
        if not self._retries:
            return
        now = time.monotonic()
        due = [one for one in self._retries if one[0] <= now]
        self._retries = [one for one in self._retries if one[0] > now]
        for _, case in due:
            self._begin(case)

    def finish(self) -> None:
        """Waits for all that is aside, and tries what failed once more."""
        self._aside.finish()
        retries, self._retries = self._retries, []
        for _, case in retries:
            self._begin(case)
        self._aside.finish()
        for _, case in self._retries:
            leftover = case.leftover
            if leftover.held is not None:
                self._log.error(
                    "envelope_lost",
                    envelope=leftover.id,
                    bytes=leftover.end,
                    why="its directory is gone, and there was none to save it in",
                )

    # -- what came of it ---------------------------------------------------------------------

    def _judge(self, case: _Case, work: Callable[[], Outcome]) -> None:
        try:
            outcome = work()
        except OSError as problem:
            self._failed(case, problem)
        except MemoryError:
            self._failed(case, LimitReached("no memory for it"))
        except Exception as problem:
            self._fault(case, problem)
        else:
            self._tell(case.leftover, outcome)

    def _failed(self, case: _Case, problem: OSError) -> None:
        """Handles a failure of the disk, or for want of memory: the draft is to be tried again."""
        case.failures += 1
        pause = case.pause()
        about = {"envelope": case.leftover.id, "again_in": pause}
        self._log.error("recovery_failed", **about, why=reason(problem))
        self._wait(case, pause)
        self._blame(problem)

    def _fault(self, case: _Case, problem: Exception) -> None:
        """Tries a draft again after a fault of ours, which may pass. Damage stays."""
        leftover = case.leftover
        case.faults += 1
        if case.faults < FAULTS_MAX:
            about = {"envelope": leftover.id, "again_in": RETRY_SECS}
            self._log.error("recovery_failed", **about, exc_info=problem)
            self._wait(case, RETRY_SECS)
            return
        self._log.error("envelope_damaged", envelope=leftover.id, exc_info=problem)
        try:
            self._spool.set_aside(leftover, repr(problem))
        except OSError as failure:
            self._failed(case, failure)
            return
        self._done(leftover)
        self._links.stats.add("envelopes_rejected_total")

    def _done(self, leftover: Leftover) -> None:
        self._sizes.pop(leftover.id, None)
        self._given.discard(leftover.id)

    def _tell(self, leftover: Leftover, outcome: Outcome) -> None:
        self._done(leftover)
        for damage in outcome.damages:
            self._links.stats.add("members_damaged_total")
            self._log.error(
                "member_damaged",
                envelope=leftover.id,
                member=damage.name or None,
                offset=damage.start,
                bytes=damage.end - damage.start,
                why=damage.why,
                kept=f"rejected/{leftover.id}.zip",
            )
        if outcome.fresh is not None:
            if outcome.fresh.id != leftover.id:
                self._log.warning("envelope_moved", envelope=leftover.id, to=outcome.fresh.id)
            self.give(outcome.fresh)
        elif outcome.ticket is not None:
            self._links.stats.add("envelopes_recovered_total")
            self._log.warning(
                "envelope_recovered",
                envelope=outcome.ticket.id,
                instances=outcome.ticket.instances,
                bytes=outcome.ticket.size_bytes,
            )
        self._links.ring_outbox()  # a seal that failed behind its last rename has told nobody
