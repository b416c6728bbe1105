"""Logs when the storage passes a mark of free space, and when it is back.

Wanted: an administrator reads why senders are refused, before they ask.
Guaranteed: one line a crossing for the whole node: the uploader alone writes it. It looks each
LOOK_SECS: one statvfs(2).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from fastjmix import log
from fastjmix.spool import FreeSpace
from fastjmix.spool.disk_marks import Crossing, DiskMarks, Level

LOOK_SECS: Final = 5.0
"""Seconds between two looks, each of some 10 µs. Senders that are refused meanwhile have lines of
their own."""

_MARKS: Final = {Level.FREE: None, Level.SOFT: "soft", Level.HARD: "hard"}

_HINTS: Final = {
    Level.SOFT: "new associations are rejected until a tenth more than the soft mark is free: make"
    " room, or let the upstream take what waits in outbox/",
    Level.HARD: "instances are answered with A700, and POSTs with 507: make room now. Nothing that"
    " was acknowledged is lost",
}


class DiskWatch:
    """Watches the storage's free space; None: it is not looked at."""

    def __init__(self, room: FreeSpace | None) -> None:
        self._marks = DiskMarks(room) if room is not None else None

    async def run(self) -> None:
        """Looks until it is cancelled. A storage that cannot be asked is reported by others."""
        while self._marks is not None:
            with contextlib.suppress(OSError):
                for crossing in self._marks.look():
                    log_crossing(crossing)
            await asyncio.sleep(LOOK_SECS)
        await asyncio.Event().wait()


def log_crossing(crossing: Crossing) -> None:
    """Logs a crossing: an error at the hard mark, a warning at the soft one, else information."""
    suffix = "bytes" if crossing.resource == "space" else "inodes"
    pairs: dict[str, object] = {
        "mark": _MARKS[crossing.now],
        "was_below": _MARKS[crossing.before],
        "resource": crossing.resource,
        f"free_{suffix}": crossing.margin.free,
        f"reserved_{suffix}": crossing.margin.reserved or None,
        f"soft_mark_{suffix}": crossing.margin.soft,
        f"hard_mark_{suffix}": crossing.margin.hard,
        "hint": _HINTS.get(crossing.now),
    }
    lines = log.get()
    if crossing.now is Level.HARD:
        lines.error("disk_below_mark", **pairs)
    elif crossing.now is Level.SOFT:
        lines.warning("disk_below_mark", **pairs)
    else:
        lines.info("disk_above_marks", **pairs)
