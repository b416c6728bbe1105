"""The drain: no new association, the open ones to their own end, seal, deliver, then the end.

Guaranteed: while it lasts every process runs, so that it can be undone at any moment until it is
over. It goes through three demands (ipc/drain.py), each of which is met before the next is made:

    closing      receivers have no association any more
    sealing      packers have no envelope any more
    delivering   the uploader can deliver nothing more now

It is over when the third is met, or after `drain_secs`, or, where a service manager waits for the
end, HAND_OVER_SECS after the second: the rest is in outbox/, for the next start. It knows no
signal and no process: the supervisor's loop calls `step`, and stops the children when it is `over`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from fastjmix import log
from fastjmix.ipc.board_rows import Draining
from fastjmix.ipc.drain import UPLOADER, DrainPage, Intake

STEP_SECS: Final = 0.02
"""How often the answers are looked at while a drain lasts."""

WAITING_SECS: Final = 15.0
"""How long peers are left in the backlog of an inherited socket. It is half of what DCMTK's tools
and many modalities wait for an answer: from then on they are rejected for now, and try again."""

HAND_OVER_SECS: Final = 10.0
"""How long a service manager's stop waits for deliveries. The next start, which begins the sooner
for it, delivers what a slow upstream has not taken by then."""


class Phase(Enum):
    """The part of its work that a drain waits for."""

    CLOSING = "closing"
    SEALING = "sealing"
    DELIVERING = "delivering"


@dataclass(slots=True)
class _Drain:
    """A drain that lasts. Times are monotonic seconds; `since` is in Unix seconds."""

    by: str
    began: float
    since: float
    phase_began: float
    phase: Phase = Phase.CLOSING
    restart: bool = False
    waits_until: float = 0.0


class Drain:
    """The drain of one supervisor. `wake` wakes all processes that look at the page."""

    def __init__(self, page: DrainPage, drain_secs: float, wake: Callable[[], None]) -> None:
        self._page = page
        self.drain_secs = drain_secs
        self._wake = wake
        self._current: _Drain | None = None
        self._log = log.get()
        self.over = False

    def begin(self, by: str, *, restart: bool = False, waits: bool = False) -> None:
        """Begins a drain, for the log in the name of `by`.

        `restart`: somebody waits for the end, so deliveries are not waited for without end.
        `waits`: peers of sockets that outlive this process wait for the next one. A drain that
        lasts already goes on; a restart only hastens it.
        """
        now = time.monotonic()
        if self._current is None:
            self._log.info("draining", by=by, drain_secs=self.drain_secs)
            self._current = _Drain(by, now, time.time(), now)
        self._current.restart |= restart
        if waits:
            self._current.waits_until = now + WAITING_SECS
        self._ask(now)

    def cut(self) -> None:
        """Ends the drain now, whatever is still open."""
        if self._current is not None:
            hint = "what is open is ended within grace_secs; what is not delivered is in outbox/"
            secs = round(time.monotonic() - self._current.began, 3)
            self._log.warning("drain_cut", phase=self._current.phase.value, secs=secs, hint=hint)
            self.over = True

    def undo(self) -> bool:
        """Ends the drain, and takes associations again. Returns False when none lasts any more."""
        if self._current is None or self.over:
            return False
        self._log.info("drain_undone", phase=self._current.phase.value)
        self._current = None
        self._page.ask(Intake.OPEN)
        self._wake()
        return True

    def step(self) -> None:
        """Looks at the answers, and makes the next demand when all are there."""
        current = self._current
        if current is None or self.over:
            return
        now = time.monotonic()
        if current.waits_until and now >= current.waits_until:
            current.waits_until = 0.0
            self._ask(now)
        if now - current.began >= self.drain_secs:
            self.cut()
        elif self._is_met(current.phase):
            self._advance(current, now)
        elif self._is_handed_over(current, now):
            self._end(current, now, handed_over=True)

    def _is_handed_over(self, current: _Drain, now: float) -> bool:
        delivering = current.phase is Phase.DELIVERING and current.restart
        return delivering and now - current.phase_began >= HAND_OVER_SECS

    def _is_met(self, phase: Phase) -> bool:
        page = self._page
        processes = {
            Phase.CLOSING: page.receivers,
            Phase.SEALING: page.packers,
            Phase.DELIVERING: (UPLOADER,),
        }
        return page.have_answered(processes[phase])

    def _advance(self, current: _Drain, now: float) -> None:
        if current.phase is Phase.DELIVERING:
            self._end(current, now)
            return
        closed = current.phase is Phase.CLOSING
        current.phase = Phase.SEALING if closed else Phase.DELIVERING
        current.phase_began = now
        self._ask(now)

    def _end(self, current: _Drain, now: float, *, handed_over: bool | None = None) -> None:
        self._log.info("drained", secs=round(now - current.began, 3), handed_over=handed_over)
        self.over = True

    def _ask(self, now: float) -> None:
        waits = self._current is not None and now < self._current.waits_until
        self._page.ask(Intake.WAITING if waits else Intake.REJECTED)
        self._wake()

    @property
    def wait_secs(self) -> float | None:
        """Seconds until `step` is to be called; None while there is no drain."""
        return None if self._current is None else STEP_SECS

    @property
    def hastened(self) -> bool:
        """True while somebody waits for the end."""
        return self._current is not None and self._current.restart

    @property
    def phase(self) -> Phase | None:
        """Returns the part that the drain waits for; None while there is none."""
        return None if self._current is None else self._current.phase

    def as_json(self) -> Draining | None:
        """Returns what the others show of the drain: `since` and `until` (Unix seconds), `by` and
        `phase`; None while there is none.
        """
        current = self._current
        if current is None:
            return None
        until = current.since + self.drain_secs
        return {
            "since": round(current.since, 3),
            "until": round(until, 3),
            "by": current.by,
            "phase": current.phase.value,
        }
