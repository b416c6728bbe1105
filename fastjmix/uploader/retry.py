"""Computes when to try again: exponential back-off, and Retry-After. Reads no clock."""

from __future__ import annotations

from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final

from fastjmix.uploader.outcome import Outcome

_DIGITS_MAX: Final = 12
"""A number of seconds with more digits is longer than any cap, and int() refuses some of them."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with full jitter.

    A delay is a random part of a window that doubles up to `cap` seconds, so that 1000 envelopes
    which failed together are not tried again together.
    """

    base: float = 1.0
    cap: float = 300.0

    def delay(
        self, failures: int, chance: float, *, least: float = 0.0, quick: int | None = None
    ) -> float:
        """Returns seconds to wait after the n-th failure in a row (n ≥ 1).

        `chance` is within [0, 1). `least` (Retry-After) is added to the random part, so that
        attempts which were given the same Retry-After spread, too. After `quick` failures
        (Upstream.max_retries) the window is `cap` at once.
        """
        window = min(self.cap, self.base * 2.0 ** min(failures - 1, 40))
        if quick is not None and failures > quick:
            window = self.cap
        return min(max(least, 0.0), self.cap) + chance * window


def retry_after(value: str | None, now: float, cap: float) -> float:
    """Returns Retry-After (RFC 9110 §10.2.3) as seconds within [0, cap]; 0 for any other text.

    `now` is Unix seconds, for the form that is a date.
    """
    text = (value or "").strip()
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdigit():
        secs = cap if len(digits) > _DIGITS_MAX else float(digits)
        return 0.0 if text.startswith("-") else min(secs, cap)
    try:
        secs = parsedate_to_datetime(text).timestamp() - now
    except (ValueError, OverflowError, TypeError):
        return 0.0
    return min(max(secs, 0.0), cap)


def with_retry_after(outcome: Outcome, now: float, cap: float) -> Outcome:
    """Returns the outcome with the seconds that its answer's Retry-After asks for, up to `cap`."""
    if outcome.answer is None or "retry-after" not in outcome.answer.headers:
        return outcome
    secs = retry_after(outcome.answer.headers["retry-after"], now, cap)
    return replace(outcome, least_secs=secs)
