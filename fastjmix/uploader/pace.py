"""Bounds and intervals of the uploader, as one value that tests can change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from fastjmix.config.tree import UPLOAD_RATE_MIN, UPLOADS_AT_ONCE, Upstream
from fastjmix.uploader.retry import Backoff

SCRUB_AGE_SECS: Final = 3600.0
"""An envelope that has waited for less is about to be sent, and every byte is checked then."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Time limits of an exchange with an upstream, in seconds, beside Upstream.timeout_secs.

    `stall` is the time without progress while the body flows, `rate` the bytes a second that the
    whole body must reach; `answer` is for the body of an answer whose status is already known (and
    `rate` again).
    """

    connect: float = 10.0
    stall: float = 30.0
    answer: float = 10.0
    rate: float = UPLOAD_RATE_MIN


@dataclass(frozen=True, slots=True)
class Pace:
    """Bounds and intervals in seconds. The defaults are the product's.

    Attributes:
        at_once: uploads to one upstream at the same time, where its max_concurrent says nothing.
        hold_secs: between probes of an upstream that rejects our credentials.
        route_secs: for which an envelope alone gets answers about the route before it is refused.
        rescan_secs: between listings of outbox/ for files that a person put there. For those of a
            process that crashed, the supervisor wakes the outbox watcher.
        upkeep_secs: between checks of retention and of the queue's age.
        scrub_age_secs: for which an envelope has waited before the scrub reads it.
        stop_secs: for uploads under way when the drain begins.
    """

    at_once: int = UPLOADS_AT_ONCE
    time_limits: TimeLimits = field(default_factory=TimeLimits)
    backoff: Backoff = field(default_factory=Backoff)
    hold_secs: float = 60.0
    route_secs: float = 10.0
    rescan_secs: float = 60.0
    upkeep_secs: float = 60.0
    scrub_age_secs: float = SCRUB_AGE_SECS
    stop_secs: float = 3.0

    def at_once_to(self, upstream: Upstream) -> int:
        """Returns how many deliveries to an upstream may run at the same time."""
        return upstream.allowance.max_concurrent or self.at_once
