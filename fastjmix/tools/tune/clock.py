"""The time that `tune` was given. Whatever waits for another process asks here how long it may.

Wanted: `--seconds` is kept, whatever a gateway, a sender or a disk does.
Guaranteed: nothing is waited for beyond `end`; OutOfTime says what had not happened then.
Still wrong: work of this process itself (a round's comparison) is not broken off: it may take the
part of a second that is kept for ending.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from fastjmix.errors import FastjmixError

ENDING_SECS: Final = 1.0
"""Kept for taking everything down."""

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
        """Gives the seconds since the start."""
        return time.monotonic() - self._started

    def left(self, part: float = 1.0) -> float:
        """Gives the seconds until this part of the time to `end` is used up; negative after it."""
        return (self.end - self._started) * part - self.spent()

    def sooner(self, part: float) -> Clock:
        """Returns a clock that ends when this part of the time is used up."""
        other = Clock(self.seconds, self._started)
        other.end = self._started + (self.end - self._started) * part
        return other

    def wait(
        self, happened: Callable[[], _T | None], secs: float, poll: float, what: str
    ) -> _T | None:
        """Gives what `happened` gives at last; None when it did not within `secs`.

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
    """Returns when this process began, on CLOCK_MONOTONIC: imports take time, too (proc(5))."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic() - max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)
