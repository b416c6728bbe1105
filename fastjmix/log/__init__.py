"""Structured logs: one line an event, to stderr and to the configured file.

Wanted: an administrator can follow one association or one envelope with grep.
Guaranteed: never a patient's name (callers pass identifiers only), control bytes of peers are
escaped so that nobody forges a line, and a log that cannot be written never stops the data path:
a line that stderr does not take at once (a full pipe, a stopped terminal), or that the disk has no
room for, is dropped and counted, and the count is the first line that gets through again. A file
that cannot be opened, or fails, is opened again after REOPEN_SECS: until then stderr has the lines.
A file that is stderr as well gets each line once.
No call of a logger raises, whatever it is given. log/rates.py bounds the lines of one event,
whoever causes them.
Still wrong: no rotation of our own; the file is opened for append, so use logrotate's copytruncate.
A pipe of another user cannot be opened anew: two processes that write into its last free page at
the same moment can make one of them wait for its reader.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import structlog
from structlog.typing import FilteringBoundLogger

from fastjmix.log.rates import Rates

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

VALUE_CHARS_MAX: Final = LINE_BYTES_MAX
"""Characters of one value that are looked at: a line can hold no more."""

REOPEN_SECS: Final = 10.0
"""How often a log file that failed is opened again: soon enough after somebody has mended it, and
one open(2) in ten seconds costs nothing."""

STDERR: Final = 2

Write = Callable[[bytes], int]
"""Takes a line at once, or raises OSError."""


class _Outlet:
    """One place that lines go to, and how many it did not take. `close` is for what it opened."""

    def __init__(self, write: Write, close: Callable[[], object] = lambda: None) -> None:
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
        except (OSError, MemoryError):
            self._dropped += 1  # a full disk or a closed terminal must not stop reception


class _File:
    """The log file: opened again after a while when it cannot be opened, or fails.

    A full disk is no reason to open it again: the same file takes lines when there is room. While
    stderr is the same file, what is written to stderr is in it.
    """

    STAYS_OPEN: Final = (errno.EAGAIN, errno.ENOSPC, errno.EDQUOT)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._is_stderr = False
        self._due = 0.0
        self._lock = threading.Lock()  # two threads must not open, or close, the same twice

    def open(self) -> None:
        """Makes the file (mode 0600) and its directory where they are missing. Raises OSError."""
        self._due = time.monotonic() + REOPEN_SECS
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o600)
        self._is_stderr = _joined_with_stderr(self._descriptor)

    def write(self, line: bytes) -> int:
        with self._lock:
            if self._descriptor < 0:
                if time.monotonic() < self._due:
                    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                self.open()
            if self._is_stderr:
                return len(line)
            try:
                return os.write(self._descriptor, line)
            except OSError as problem:
                if problem.errno not in self.STAYS_OPEN:
                    self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):  # close(2) tells of what write(2) could not do
                os.close(self._descriptor)
            self._descriptor = -1


def _joined_with_stderr(descriptor: int) -> bool:
    """True when stderr is the same file (or pipe, or terminal).

    Then what else is written to stderr must not overwrite lines: a shell's `2>file` writes at an
    offset, not at the end. Whoever shares that stderr then appends to it, too.
    """
    try:
        if not os.path.sameopenfile(descriptor, STDERR):
            return False
        if stat.S_ISREG(os.fstat(STDERR).st_mode):
            flags = fcntl.fcntl(STDERR, fcntl.F_GETFL)
            fcntl.fcntl(STDERR, fcntl.F_SETFL, flags | os.O_APPEND)
    except OSError:  # stderr is closed
        return False
    return True


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
    try:
        kind = os.fstat(STDERR).st_mode
    except OSError:
        return _Outlet(partial(os.write, STDERR))  # it is closed: each line is dropped and counted
    if stat.S_ISSOCK(kind):  # systemd's journal
        journal = socket.socket(fileno=STDERR)  # no copy: there may be no descriptor left for one
        return _Outlet(partial(_send, journal), journal.detach)
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
    try:
        when = time.gmtime(now)
    except (OSError, OverflowError, ValueError):  # a clock that stands beyond what a year can be
        return f"@{now:.3f}"
    return time.strftime("%Y-%m-%dT%H:%M:%S", when) + f".{now % 1:.3f}"[2:] + "Z"


def _stamp(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = _now()
    return event


def _text(value: object, form: Callable[[object], str] = str) -> str:
    """Returns the value in words, cut to VALUE_CHARS_MAX; its type where it cannot be put in
    words."""
    try:
        return form(value)[:VALUE_CHARS_MAX]
    except Exception:  # whatever __str__ does, and an int of more than 4300 digits
        return f"({type(value).__name__})"


def _value(value: object) -> str:
    text = _text(value)
    if text and text.isprintable() and not any(c in ' "=' for c in text):
        return text
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escaped(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _render(_: object, method: str, event: MutableMapping[str, Any]) -> str:
    """Renders one line. Raises nothing: a log line must not stop its caller."""
    try:
        return _line(method, event)
    except Exception as problem:
        return f"- {method:<7} - log_line_failed why={type(problem).__name__}"


def _line(method: str, event: MutableMapping[str, Any]) -> str:
    head = f"{event.pop('time')} {event.pop('level', method):<7} {event.pop('process', '-')}"
    name = _text(event.pop("event"))
    problem = event.pop("exc_info", None)
    pairs = "".join(f" {key}={_value(value)}" for key, value in event.items() if value is not None)
    line = f"{head} {name}{pairs}"
    if problem:
        shown = problem if isinstance(problem, BaseException) else sys.exc_info()[1]
        line += f" exception={_value(_text(shown, repr))}"
    return _escaped(line)


def _tell_left_out(process: str, event: str, count: int) -> None:
    """Logs a line about the lines of an event that were too many (log/rates.py)."""
    about = {"event": "log_lines_left_out", "of": event, "count": count}
    _lines.msg(_render(None, "warning", {"time": _now(), "process": process, **about}))


def setup(level: str, file: Path | None, process: str) -> None:
    """Sends this process's events to stderr and, when given, to `file` (created with mode 0600).

    Raises OSError when the file cannot be opened. Events can be logged even then: stderr has them,
    and the file is tried again after REOPEN_SECS.
    """
    outlets = [_stderr()]
    held = None if file is None else _File(file)
    if held is not None:
        outlets.append(_Outlet(held.write, held.close))
    _lines.lead(outlets)
    structlog.configure(
        processors=[
            Rates(partial(_tell_left_out, process)),
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
    if held is not None:
        held.open()


def get() -> FilteringBoundLogger:
    """The process's logger: log.get().info("envelope_sealed", envelope=id)."""
    return cast("FilteringBoundLogger", structlog.get_logger())
