"""How much a target gets, and when, and how long its envelopes are kept: those options of a backend
that each kind of target has.

schedule   "Mon-Fri 19:00-06:00", "Sat,Sun", "22:00-05:00": days, or times, or both
"""

from __future__ import annotations

import re
from typing import Final

from fastjmix.config.faults import shown
from fastjmix.config.references import References
from fastjmix.config.strings import SECS_A_DAY
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_backend import SCHEDULE_ALLOWED, BackendOptions
from fastjmix.config.tree import Allowance, Window

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WHOLE_DAY_MINUTES: Final = 24 * 60

_TIMES: Final = r"([01]?[0-9]|2[0-4]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])"


def allowance(references: References, entry: Entry, options: BackendOptions) -> Allowance:
    """Returns the allowance of a backend. A fault: a window that is none, an unknown time zone."""
    windows: list[Window] = []
    for number, text in enumerate(options.schedule or ()):
        try:
            windows.append(window(text))
        except ValueError:
            key = f"options.schedule[{number}]"
            references.fault(entry, key, shown(text), SCHEDULE_ALLOWED)
    if not windows and options.schedule_zone is not None:
        references.findings.warn(f"{entry.path}.options.schedule_zone: there is no schedule")
    return Allowance(
        options.max_concurrent,
        options.max_bytes_per_sec,
        tuple(windows),
        options.schedule_for,
        _zone(references, entry, options.schedule_zone),
    )


def retention_secs(options: BackendOptions) -> float | None:
    """Returns how long envelopes of a backend are kept after their delivery; None: the node's."""
    days = options.retention_max_age_days
    return None if days is None else days * SECS_A_DAY


def window(text: str) -> Window:
    """Returns the window that a text stands for. Raises ValueError."""
    days, times = tuple(range(len(DAYS))), (0, WHOLE_DAY_MINUTES)
    parts = text.lower().split()
    if not 1 <= len(parts) <= 2 or (len(parts) == 2 and re.fullmatch(_TIMES, parts[0])):
        raise ValueError("no window")
    for part in parts:
        found = re.fullmatch(_TIMES, part)
        if found is not None:
            hours = [int(digits) for digits in found.groups()]
            times = hours[0] * 60 + hours[1], hours[2] * 60 + hours[3]
        elif part is parts[0]:
            days = _days(part)
        else:
            raise ValueError("no times")
    start, end = times
    if start >= WHOLE_DAY_MINUTES or end > WHOLE_DAY_MINUTES or start == end:
        raise ValueError("no such times")
    return Window(days, start, end)


def _days(text: str) -> tuple[int, ...]:
    """Returns the days of "mon-fri" or "sat,sun", as numbers. Raises ValueError."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        start = DAYS.index(first)
        count = (DAYS.index(last if dash else first) - start) % len(DAYS) + 1
        found.update((start + step) % len(DAYS) for step in range(count))
    return tuple(sorted(found))


def _zone(references: References, entry: Entry, name: str | None) -> str | None:
    if name is None:
        return None
    from zoneinfo import ZoneInfo  # reads files: only where a zone is named

    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        allowed = "the name of a time zone that this machine knows, such as Europe/Berlin"
        references.fault(entry, "options.schedule_zone", shown(name), allowed)
    return name
