"""What was left in building/ is recovered beside the packer's loop, one draft at a time.

Wanted: no association waits while gigabytes are read back, verified and copied.
Guaranteed: recover() runs aside (aside.py), in the order of `give`; what comes of it is judged in
the loop, which is woken for it. A draft that the disk did not let through is tried again, with a
pause that grows; one that a fault of ours befell, once more, and then it is kept for a person. What
has not been mended when the process ends is mended by the next start.
Still wrong: while it reads, it takes turns with the loop at the interpreter, a few ms each.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from fastjmix import log
from fastjmix.aside import Aside
from fastjmix.links import Links
from fastjmix.recovery import Outcome, recover
from fastjmix.sealing import encrypted
from fastjmix.spool import Leftover, Spool

RETRY_SECS: Final = 2.0
RETRY_MAX_SECS: Final = 60.0
"""An envelope that could not be sealed (a full disk) is tried again: after the first, doubling up
to the second."""


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
        self._retries: list[tuple[float, Leftover, int]] = []

    def give(self, leftover: Leftover, attempt: int = 1) -> None:
        """Seals a draft that was left, soon."""
        self._given.add(leftover.id)
        if encrypted(leftover.recipe):
            self._sizes.setdefault(leftover.id, leftover.size)
        work = partial(recover, self._spool, leftover, self._name)
        self._aside.begin(work, partial(self._judge, leftover, attempt))

    @property
    def to_encrypt(self) -> int:
        """Bytes of the drafts that will be there a second time while they are sealed."""
        return sum(self._sizes.values())

    @property
    def count(self) -> int:
        """How many drafts are to be sealed."""
        return len(self._given)

    def hurry(self) -> None:
        """The storage is well again: what waits for another try has it at the next `tend`."""
        self._retries = [(-math.inf, leftover, attempt) for _, leftover, attempt in self._retries]

    def give_later(self, leftover: Leftover, attempt: int = 1, pause: float = RETRY_SECS) -> None:
        """The same after a pause, in seconds."""
        self._given.add(leftover.id)
        if encrypted(leftover.recipe):
            self._sizes.setdefault(leftover.id, leftover.size)
        self._retries.append((time.monotonic() + pause, leftover, attempt))

    @property
    def due(self) -> list[float]:
        """When there is something to do again, in monotonic seconds; nothing wakes for it."""
        return [when for when, _, _ in self._retries]

    def tend(self) -> None:
        """What is to be tried again by now."""
        if not self._retries:
            return
        now = time.monotonic()
        due = [one for one in self._retries if one[0] <= now]
        self._retries = [one for one in self._retries if one[0] > now]
        for _, leftover, attempt in due:
            self.give(leftover, attempt)

    def finish(self) -> None:
        """Waits for all that is aside, and tries what failed once more."""
        self._aside.finish()
        retries, self._retries = self._retries, []
        for _, leftover, attempt in retries:
            self.give(leftover, attempt)
        self._aside.finish()
        for _, leftover, _ in self._retries:
            if leftover.held is not None:
                self._log.error(
                    "envelope_lost",
                    envelope=leftover.id,
                    bytes=leftover.end,
                    why="its directory is gone, and there was none to save it in",
                )

    # -- what came of it ---------------------------------------------------------------------

    def _judge(self, leftover: Leftover, attempt: int, work: Callable[[], Outcome]) -> None:
        try:
            try:
                outcome = work()
            except OSError:
                raise
            except Exception as problem:
                self._fault(leftover, attempt, problem)
            else:
                self._tell(leftover, outcome)
        except OSError as problem:  # the disk's: to be tried again
            pause = min(RETRY_SECS * 2**attempt, RETRY_MAX_SECS)
            self._log.error(
                "recovery_failed", envelope=leftover.id, why=problem.strerror, again_in=pause
            )
            self.give_later(leftover, attempt + 1, pause)
            self._blame(problem)

    def _fault(self, leftover: Leftover, attempt: int, problem: Exception) -> None:
        """A fault of ours may pass; what is damaged stays so. Raises OSError."""
        if attempt == 1:
            about = {"envelope": leftover.id, "again_in": RETRY_SECS}
            self._log.error("recovery_failed", **about, exc_info=problem)
            self.give_later(leftover, 2)
            return
        self._log.error("envelope_damaged", envelope=leftover.id, exc_info=problem)
        self._spool.set_aside(leftover, repr(problem))
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
            self._links.ring_outbox()
