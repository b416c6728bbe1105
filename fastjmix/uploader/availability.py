"""Tracks whether an upstream may be tried now. Reads no clock.

Wanted: an upstream that is down, or rejects our credentials, is not tried by every envelope.
Guaranteed: an upstream is in one of three states. Times are of one monotonic clock, in seconds.

    available   as many uploads at once as the uploader likes
    paused      after a failure that concerns the upstream: no attempt before `until`, then one at
                a time
    held        the same after 401, 403 or a redirect, which a person has to correct; or after an
                answer about the route, where the pauses double up to the length of the others
"""

from __future__ import annotations

from typing import Final, assert_never

from fastjmix.uploader.outcome import Disposition, Outcome
from fastjmix.uploader.retry import Backoff

STRIKES_MAX: Final = 4
"""Failures in a row, of whatever kind, that count as the upstream's and not as an envelope's: as
many as there are uploads at once, so that one bad envelope cannot pause the rest."""


class Availability:
    """The state of one upstream. It records every outcome, and is asked before every attempt."""

    def __init__(self, backoff: Backoff, hold_secs: float) -> None:
        self._backoff = backoff
        self._hold_secs = hold_secs
        self._failures = 0
        self._strikes = 0
        self._holds = 0
        self._changed_at = float("-inf")
        self.until = float("-inf")
        self.held: Outcome | None = None

    @property
    def available(self) -> bool:
        """True when the upstream is neither paused nor held."""
        return self.held is None and not self._failures

    def lift(self) -> None:
        """Ends a pause or a hold: an answer has shown, or a person says, that it is over."""
        self._failures = self._strikes = self._holds = 0
        self.held = None
        self.until = float("-inf")

    def allows(self, now: float, running: int) -> bool:
        """Returns whether an attempt may start while `running` others are under way."""
        return self.available or (now >= self.until and running == 0)

    def allows_awaited(self, now: float, running: int) -> bool:
        """Returns the same for an envelope for which a process waits.

        The answer is worth an attempt, unless credentials are at fault.
        """
        return self.held is None or self.held.route or self.allows(now, running)

    def record(self, outcome: Outcome, started: float, now: float, chance: float) -> None:
        """Records the outcome of an attempt that began at `started`. `chance` is within [0, 1)."""
        match outcome.disposition:
            case Disposition.HELD:
                self._hold(outcome, started, now, chance)
            case Disposition.DELIVERED | Disposition.REFUSED | Disposition.VERIFY:
                self.lift()
            case Disposition.RETRY:
                self._fail(outcome, started, now, chance)
            case _:
                assert_never(outcome.disposition)

    def _hold(self, outcome: Outcome, started: float, now: float, chance: float) -> None:
        secs = self._hold_secs
        if outcome.route:
            self._holds += started >= self._changed_at
            window = self._backoff.delay(max(1, self._holds), 1.0)
            secs = min(secs, (1 + chance) / 2 * window)
        self._changed_at = now
        self.held = outcome
        self.until = now + max(secs, outcome.least_secs)

    def _fail(self, outcome: Outcome, started: float, now: float, chance: float) -> None:
        self._strikes += 1
        answered = outcome.status is not None
        counts = outcome.shared or self._strikes >= STRIKES_MAX or (answered and not self.available)
        # Uploads that ran side by side fail together: they count as one failure.
        if counts and started >= self._changed_at:
            self._failures += 1
            delay = self._backoff.delay(self._failures, chance, least=outcome.least_secs)
            self._changed_at = now
            self.until = max(self.until, now + delay)
