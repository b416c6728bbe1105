"""One event as one line: its parts, and its text form.

    2026-01-31T12:00:00.123Z warning receiver-0 association_rejected caller=CT1 why="not known"

Guaranteed: `as_text` and `json_lines.as_json` give a line for whatever they are given, of at most
LINE_BYTES_MAX bytes with its newline. A value's control characters are escaped, so that a peer
cannot forge a line or command a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

LINE_BYTES_MAX: Final = 4096
"""A pipe takes so many bytes whole or not at all (PIPE_BUF): a longer line is cut."""

VALUE_CHARS_MAX: Final = LINE_BYTES_MAX
"""Characters of one value that are looked at: a line can hold no more."""


class Line(NamedTuple):
    """An event. `pairs` may hold any value; those that are None are left out."""

    time: str
    level: str
    process: str
    event: object
    pairs: Mapping[str, object]


Form = Callable[[Line], bytes]
"""A form of a line, with its newline."""


def now() -> str:
    """Returns the time (RFC 3339, UTC, milliseconds)."""
    seconds = time.time()
    try:
        parts = time.gmtime(seconds)
    except (OSError, OverflowError, ValueError):  # the clock is beyond what a year can be
        return f"@{seconds:.3f}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", parts) + f".{seconds % 1:.3f}"[2:] + "Z"


def words(value: object, form: Callable[[object], str] = str) -> str:
    """Returns a value's string, cut to VALUE_CHARS_MAX; its type where it has none."""
    try:
        return form(value)[:VALUE_CHARS_MAX]
    except Exception:  # any error of its __str__, or an int of more than 4300 digits
        return f"({type(value).__name__})"


def with_values(pairs: Mapping[str, object]) -> dict[str, object]:
    """Returns the pairs that have a value. An `exc_info` becomes `exception`, as the last pair.

    `exc_info` is the exception itself, or true for the one that is being handled.
    """
    kept = {key: value for key, value in pairs.items() if value is not None}
    problem = kept.pop("exc_info", None)
    if problem:
        raised = problem if isinstance(problem, BaseException) else sys.exc_info()[1]
        kept["exception"] = words(raised, repr)
    return kept


def as_text(line: Line) -> bytes:
    """Returns `time level process event key=value …`. A value that holds a blank, a quote, an
    equals sign or a control character is in quotes, with a backslash before each quote."""
    joined = f"{line.time} {line.level:<7} {line.process} {_said(line)}"
    return _escaped(joined).encode("utf-8", "replace")[: LINE_BYTES_MAX - 1] + b"\n"


def event_text(line: Line) -> str:
    """Returns `event key=value …`, without time, level and process: what the ledger keeps."""
    return _escaped(_said(line))


def _said(line: Line) -> str:
    pairs = "".join(f" {key}={_value(v)}" for key, v in with_values(line.pairs).items())
    return f"{words(line.event)}{pairs}"


def _value(value: object) -> str:
    shown = words(value)
    if shown and shown.isprintable() and not any(c in ' "=' for c in shown):
        return shown
    return '"' + _escaped(shown.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escaped(shown: str) -> str:
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)
