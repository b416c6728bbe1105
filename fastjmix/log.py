"""Structured logs: one line an event, to stderr and to the configured file.

Wanted: an administrator can follow one association or one envelope with grep.
Guaranteed: never a patient's name (callers pass identifiers only), control bytes of peers are
escaped so that nobody forges a line, and a log that cannot be written never stops the data path.
Still wrong: no rotation of our own; the file is opened for append, so use logrotate's copytruncate.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, cast

import structlog
from structlog.typing import FilteringBoundLogger

# "trace" is Harmony's finest level; the standard library's finest is debug.
LEVELS: Final[Mapping[str, int]] = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}


class _Lines:
    """Writes each line with one write(2), so that lines of several processes never mix."""

    def __init__(self, descriptors: tuple[int, ...]) -> None:
        self._descriptors = descriptors

    def msg(self, line: str) -> None:
        data = (line + "\n").encode("utf-8", "replace")
        for descriptor in self._descriptors:
            try:
                os.write(descriptor, data)
            except OSError:
                continue  # a full disk or a closed terminal must not stop reception

    debug = info = warning = error = critical = exception = msg


def _stamp(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    now = time.time()
    event["time"] = (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{now % 1:.3f}"[2:] + "Z"
    )
    return event


def _value(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else repr(c)[1:-1] for c in escaped) + '"'


def _render(_: object, method: str, event: MutableMapping[str, Any]) -> str:
    head = f"{event.pop('time')} {event.pop('level', method):<7} {event.pop('process', '-')}"
    name = str(event.pop("event"))
    problem = event.pop("exc_info", None)
    pairs = "".join(f" {key}={_value(value)}" for key, value in event.items() if value is not None)
    line = f"{head} {name}{pairs}"
    if problem:
        shown = problem if isinstance(problem, BaseException) else sys.exc_info()[1]
        line += f" exception={_value(repr(shown))}"
    return line


def setup(level: str, file: Path | None, process: str) -> None:
    """Sends this process's events to stderr and, when given, to `file` (created with mode 0600).

    Raises OSError when the file cannot be opened.
    """
    descriptors = [2]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptors.append(os.open(file, flags, 0o600))
    lines = _Lines(tuple(descriptors))
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamp,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def get() -> FilteringBoundLogger:
    """The process's logger: log.get().info("envelope_sealed", envelope=id)."""
    return cast("FilteringBoundLogger", structlog.get_logger())
