"""Structured logs: one line an event, to stderr and to the configured file.

Wanted: an administrator can follow one association or one envelope with grep.
Guaranteed: never a patient's name (callers pass identifiers only), control bytes of peers are
escaped so that nobody forges a line, and a log that cannot be written never stops the data path:
a line that stderr does not take at once (a full pipe, a stopped terminal), or that the disk has no
room for, is dropped and counted, and the count is the first line that gets through again.
Still wrong: no rotation of our own; the file is opened for append, so use logrotate's copytruncate.
A pipe of another user cannot be opened anew: two processes that write into its last free page at
the same moment can make one of them wait for its reader.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
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


LINE_BYTES_MAX: Final = 4096
"""A pipe takes so many bytes whole or not at all (PIPE_BUF): a longer line is cut."""

STDERR: Final = 2

Write = Callable[[bytes], int]
"""Takes a line at once, or raises OSError."""


class _Outlet:
    """One place that lines go to, and how many it did not take. `close` is for what it opened."""

    def __init__(self, write: Write, close: Callable[[], None] = lambda: None) -> None:
        self._write = write
        self.close = close
        self._dropped = 0

    @classmethod
    def owning(cls, descriptor: int) -> _Outlet:
        return cls(partial(os.write, descriptor), partial(os.close, descriptor))

    def put(self, line: bytes) -> None:
        try:
            if self._dropped:
                told = f" process={os.getpid()} count={self._dropped}\n"
                self._write(f"{_now()} warning - log_lines_dropped{told}".encode())
                self._dropped = 0
            self._write(line)
        except OSError:
            self._dropped += 1  # a full disk or a closed terminal must not stop reception


class _Lines:
    """Writes each line with one write(2), so that lines of several processes never mix."""

    def __init__(self) -> None:
        self._outlets: list[_Outlet] = []

    def lead(self, outlets: list[_Outlet]) -> None:
        """From now on there; what the lines went to before is closed."""
        before, self._outlets = self._outlets, outlets
        for outlet in before:
            outlet.close()

    def msg(self, line: str) -> None:
        data = line.encode("utf-8", "replace")[: LINE_BYTES_MAX - 1] + b"\n"
        for outlet in self._outlets:
            outlet.put(data)

    debug = info = warning = error = critical = exception = msg


_lines: Final = _Lines()


def _stderr() -> _Outlet:
    """Writes to stderr without waiting for whoever reads it.

    Its own O_NONBLOCK is left alone: the terminal or the pipe is shared with other programs.
    """
    kind = os.fstat(STDERR).st_mode
    if stat.S_ISSOCK(kind):  # systemd's journal
        with contextlib.suppress(OSError):
            journal = socket.socket(fileno=os.dup(STDERR))
            return _Outlet(partial(_send, journal), journal.close)
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            return _Outlet.owning(os.open(f"/proc/self/fd/{STDERR}", flags))
        return _Outlet(_write_if_ready)
    return _Outlet(partial(os.write, STDERR))  # a file


def _send(journal: socket.socket, line: bytes) -> int:
    return journal.send(line, socket.MSG_DONTWAIT)


def _write_if_ready(line: bytes) -> int:
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(STDERR, line)


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{now % 1:.3f}"[2:] + "Z"


def _stamp(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = _now()
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
    outlets = [_stderr()]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        outlets.append(_Outlet.owning(os.open(file, flags, 0o600)))
    _lines.lead(outlets)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamp,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: _lines,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)


def get() -> FilteringBoundLogger:
    """The process's logger: log.get().info("envelope_sealed", envelope=id)."""
    return cast("FilteringBoundLogger", structlog.get_logger())
