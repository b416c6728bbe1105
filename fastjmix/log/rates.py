"""Limits the log lines of one event in a process, so that no peer fills the disk with its mistakes.

Wanted: each line that a person may need, and a log that stays readable after a week of attack.
Guaranteed: of one event a process logs LINES_AT_ONCE lines, and then WARNINGS_A_SECOND (or, below a
warning, LINES_A_SECOND) in the long run. Further lines are left out and counted. The count is a
line of its own (`log_lines_left_out`) beside the next line that this process logs, once in
COUNT_SECS for an event. Each event has its own allowance: a flood of one takes nothing from the
others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

LINES_AT_ONCE: Final = 2000
"""Lines of one event that are logged after a time of quiet. All instances of a study that is
refused, or the envelopes of a night that are delivered at once, are listed one by one."""

WARNINGS_A_SECOND: Final = 20
"""Warnings and errors of one event that are logged for ever: 4 KB a second, a third of a GB a day.
A peer makes 20,000 a second (instances that are refused), which would be 280 GB."""

LINES_A_SECOND: Final = 500
"""The same below a warning. Each of these lines stands for work that was done: an association, an
envelope that was sealed or delivered. A modality that associates once an image makes 100."""

COUNT_SECS: Final = 10.0
"""Seconds between two counts of one event."""

EVENTS_MAX: Final = 1000
"""Events that are counted apart. Their names are in the program: there are fewer."""

NAME_CHARS_MAX: Final = 64
"""Characters of an event's name that are looked at."""

LOW: Final = frozenset({"debug", "info"})
"""Levels below a warning."""


@dataclass(slots=True)
class _Allowance:
    """Lines of one event that may be logged at `at`, and how many were left out since `counted`."""

    left: float
    at: float
    left_out: int = 0
    counted: float = field(default=float("-inf"))

    def takes(self, now: float, a_second: float) -> bool:
        """Counts one line. Returns True if it may be logged."""
        self.left = min(LINES_AT_ONCE, self.left + (now - self.at) * a_second)
        self.at = now
        if self.left < 1:
            self.left_out += 1
            return False
        self.left -= 1
        return True


class Rates:
    """The allowances of a process. `report(event, count)` logs how many lines were left out."""

    def __init__(self, report: Callable[[str, int], object]) -> None:
        self._report = report
        self._of: dict[str, _Allowance] = {}
        self._behind = False
        self._lock = threading.Lock()

    def takes(self, level: str, event: object) -> bool:
        """Counts one line of an event, and reports the counts that are due. Returns True if the
        line may be logged."""
        now = monotonic()
        with self._lock:
            taken = self._takes(level, event, now)
            counts = self._due(now) if self._behind else []
        for name, count in counts:
            self._report(name, count)
        return taken

    def _takes(self, level: str, event: object, now: float) -> bool:
        if not isinstance(event, str):
            return True
        name = event[:NAME_CHARS_MAX]
        allowance = self._of.get(name)
        if allowance is None:
            if len(self._of) >= EVENTS_MAX:
                return True
            allowance = self._of[name] = _Allowance(LINES_AT_ONCE, now)
        if allowance.takes(now, LINES_A_SECOND if level in LOW else WARNINGS_A_SECOND):
            return True
        self._behind = True
        return False

    def _due(self, now: float) -> list[tuple[str, int]]:
        """Returns the counts that are due by now: an event's first at once."""
        behind = [(name, one) for name, one in self._of.items() if one.left_out]
        found = []
        for name, one in behind:
            if now - one.counted >= COUNT_SECS:
                found.append((name, one.left_out))
                one.left_out, one.counted = 0, now
        self._behind = len(found) < len(behind)
        return found
