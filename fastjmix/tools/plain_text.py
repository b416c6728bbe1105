"""Forms of numbers, times and tables in the text that commands print.

Guaranteed: a text of a peer is one cell of one line: its control characters are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from fastjmix.errors import UsageError, printable

SIZES: Final = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))

AGES: Final = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))

UNITS: Final = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
"""Units in which a person writes an age."""


def many(count: object, thing: str) -> str:
    """Returns a number with its noun: "1 envelope", "2 envelopes"."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def size(count: float | None) -> str:
    """Returns a number of bytes in its largest unit."""
    if count is None:
        return "-"
    for unit, least in SIZES:
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{int(count)} B"


def speed(count: float, secs: float) -> str:
    """Returns bytes in so many seconds as megabytes a second."""
    return f"{count / 1e6 / max(secs, 1e-3):.1f} MB/s"


def age(secs: float | None) -> str:
    """Returns a time in its largest unit."""
    if secs is None:
        return "-"
    for unit, least in AGES:
        if secs >= 2 * least:
            return f"{int(secs / least)} {unit}"
    return f"{int(secs)} s"


def moment(at: float | None) -> str:
    """Returns a time in UTC, to the second."""
    if not at:
        return "-"
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "-"


def seconds_of(word: str) -> float:
    """Returns the seconds of an age that a person has written: 90, 90s, 15m, 2h, 3d, 1w.

    Raises UsageError.
    """
    number = word.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = word[len(number) :] or "s"
    try:
        found = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        found = -1.0
    if not 0 <= found < 1e12:
        raise UsageError(f"no age: {word!r}", "For example 90s, 15m, 2h, 3d, 1w.")
    return found


def table(rows: Iterable[Sequence[object]], head: Sequence[str] = ()) -> Iterator[str]:
    """Yields the lines of a table with aligned columns; none without rows."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    if head:
        cells.insert(0, list(head))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield line.rstrip()
