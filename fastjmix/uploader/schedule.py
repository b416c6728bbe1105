"""Decides whether a target's schedule is open. Reads no clock."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from fastjmix.config.tree import Allowance, Window

_DAYS: Final = 7


def is_open(windows: Iterable[Window], at: datetime) -> bool:
    """Returns whether one of the windows is open. `at` is the local time there."""
    minute, today = at.hour * 60 + at.minute, at.weekday()
    yesterday = (today - 1) % _DAYS
    for one in windows:
        goes_on = one.end <= one.start
        if today in one.days and one.start <= minute and (goes_on or minute < one.end):
            return True
        if goes_on and yesterday in one.days and minute < one.end:
            return True
    return False


def open_to(allowance: Allowance, *, bulk: bool, now: float) -> bool:
    """Returns whether an envelope may go at `now` (Unix seconds). `bulk`: that is its priority."""
    if not allowance.windows or (allowance.windows_for == "bulk" and not bulk):
        return True
    zone = ZoneInfo(allowance.zone) if allowance.zone is not None else None
    return is_open(allowance.windows, datetime.fromtimestamp(now, zone))


def secs_to_look_again(now: float) -> float:
    """Returns the seconds until a schedule may open or close: at the next full minute."""
    return 60.0 - now % 60.0
