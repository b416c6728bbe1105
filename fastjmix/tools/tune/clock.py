"""The time that `tune` was given: how long it may wait for a gateway, a sender or a disk.

Guaranteed: it waits for nothing beyond `end`; OutOfTime says what had not happened then.
Still wrong: work of this process itself (the comparison of a round) is not interrupted: it may take
the part of a second that is kept for ending.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from fastjmix.errors import FastjmixError

ENDING_SECS: Final = 1.0
"""Kept for ending everything that was started."""

_T = TypeVar("_T")


class OutOfTime(FastjmixError):
    """The time is used up, and what was waited for had not happened."""


class Clock:
    """Counts from `started` (CLOCK_MONOTONIC); `end` is when nothing is waited for any more."""

    def __init__(self, seconds: float, started: float) -> None:
        self.seconds = seconds
        self.end = started + seconds - ENDING_SECS
        self._started = started

    def spent(self) -> float:
        """Returns the seconds since the start."""
        return time.monotonic() - self._started

    def left(self, part: float = 1.0) -> float:
        """Returns the seconds until this part of the time to `end` is over; negative after it."""
        return (self.end - self._started) * part - self.spent()

    def sooner(self, part: float) -> Clock:
        """Returns a clock that ends when this part of the time is used up."""
        other = Clock(self.seconds, self._started)
        other.end = self._started + (self.end - self._started) * part
        return other

    def wait(
        self, happened: Callable[[], _T | None], secs: float, poll: float, what: str
    ) -> _T | None:
        """Waits until `happened` returns something, and returns that; None after `secs`.

        Raises OutOfTime, which says `what` there was no time for.
        """
        deadline = time.monotonic() + secs
        while (found := happened()) is None:
            self.require(what)
            if time.monotonic() >= deadline:
                return None
            time.sleep(poll)
        return found

    def require(self, what: str) -> None:
        """Raises OutOfTime when none is left."""
        if self.left() <= 0:
            raise OutOfTime(
                f"{self.seconds:g} seconds are too few here: {what}", "Give it more --seconds."
            )


def process_start() -> float:
    """Returns when this process began, on CLOCK_MONOTONIC (proc(5)), as imports take time too."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
