"""Passage every process → the ledger: what happened, as lines of JSON in one pipe.

Wanted: no process waits for the ledger, and none needs it.
Guaranteed: `send` never blocks and never raises. A line is at most LINE_MAX bytes, which the pipe
takes whole or not at all (pipe(7), PIPE_BUF), so lines of several processes never mix. The pipe
belongs to the supervisor's descriptors: lines in it outlive the process that wrote them, and a
restart of the process that reads them. Lines that the pipe has no space for stay in their process,
PENDING_MAX at most, and go with a later line; the others are counted as lost. The ledger makes good
from the files what a lost line said of an envelope.

Each line is an object with `kind`, and `at` in Unix seconds. The kinds are in ledger/kinds.py.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

import orjson

from fastjmix import log
from fastjmix.ipc.metrics import Metrics
from fastjmix.log.lines import Line, event_text

Event = Mapping[str, object]
"""An event: `kind`, `at` in Unix seconds, and the facts of its kind."""

LINE_MAX: Final = select.PIPE_BUF
"""Bytes of a line with its end: 4096 on Linux."""

TEXT_MAX: Final = 256
"""Characters that are kept of each text where a line would be longer than LINE_MAX."""

PIPE_BYTES: Final = 1 << 20
"""Size of the pipe: what an unprivileged process may ask for (pipe(7)). It holds some 2,500 lines
of 400 bytes."""

PENDING_MAX: Final = 4096
"""Lines that wait in one process for space in the pipe: 1.6 MB of 400 bytes each."""

READ_BYTES: Final = 1 << 16

LOST: Final = "ledger_events_lost_total"


def make_pipe() -> tuple[int, int]:
    """Returns the reading and the writing end, both non-blocking. Raises OSError."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    with contextlib.suppress(OSError):  # pipe-user-pages-soft is reached: 64 KB must do
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reading, writing


class Events:
    """The writing end of one process. With -1 for `descriptor` nothing is sent."""

    def __init__(self, descriptor: int = -1, metrics: Metrics | None = None) -> None:
        self._descriptor = descriptor
        self._metrics = metrics
        self._pending: deque[bytes] = deque()

    def send(self, kind: str, /, **facts: object) -> None:
        """Sends what happened. The facts are what JSON can hold."""
        if self._descriptor < 0:
            return
        line = _line({"kind": kind, "at": time.time(), **facts})
        if line is None or len(self._pending) >= PENDING_MAX:
            self._count_lost()
            return
        self._pending.append(line)
        self.flush()

    def report_errors(self) -> None:
        """Sends each error that this process logs from now on, too."""

        def report(line: Line) -> None:
            text = event_text(line)
            self.send("error", process=line.process, event=str(line.event), text=text)

        log.get().report_errors(report)

    def flush(self) -> bool:
        """Writes the lines that wait, as far as the pipe has space. Returns True when none wait."""
        while self._pending:
            try:
                os.write(self._descriptor, self._pending[0])
            except BlockingIOError:
                return False
            except OSError:  # nobody will read it any more: this node is ending
                self._pending.clear()
                return True
            self._pending.popleft()
        return True

    def close(self) -> None:
        """Closes the writing end of this process."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _count_lost(self) -> None:
        if self._metrics is not None:
            self._metrics.add(LOST)


def _line(facts: Mapping[str, object]) -> bytes | None:
    """Returns a line; None for one that cannot be shortened to LINE_MAX, or cannot be written."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    with contextlib.suppress(TypeError):  # UTF-8 cannot hold a text of the peer's
        line = orjson.dumps(facts, option=options)
        if len(line) <= LINE_MAX:
            return line
    short = {name: _short(value) for name, value in facts.items()}
    try:
        line = orjson.dumps(short, option=options)
    except TypeError:
        return None
    return line if len(line) <= LINE_MAX else None


def _short(value: object) -> object:
    if not isinstance(value, str):
        return value
    return value[:TEXT_MAX].encode("utf-8", "replace").decode("utf-8")


class BoundedEvents:
    """The events of one kind that a peer can cause: `a_second` of them at most.

    The next event has the number of those that were left out before it, as `left_out`.
    """

    def __init__(self, events: Events, kind: str, a_second: int) -> None:
        self._events = events
        self._kind = kind
        self._a_second = a_second
        self._since = time.monotonic()
        self._left = a_second
        self._left_out = 0

    def send(self, **facts: object) -> None:
        """Sends an event, or counts it as left out."""
        now = time.monotonic()
        if now - self._since >= 1.0:
            self._since, self._left = now, self._a_second
        if not self._left:
            self._left_out += 1
            return
        self._left -= 1
        if self._left_out:
            facts["left_out"], self._left_out = self._left_out, 0
        self._events.send(self._kind, **facts)


class EventReader:
    """The reading end: the ledger's."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""

    def read(self) -> list[Event]:
        """Returns the events that are in the pipe, READ_BYTES of lines at most; [] for none.

        A line that is no event is left out.
        """
        try:
            data = self._rest + os.read(self.descriptor, READ_BYTES)
        except BlockingIOError:
            return []
        whole, _, self._rest = data.rpartition(b"\n")
        return list(_decode(whole.split(b"\n")))


def _decode(lines: list[bytes]) -> Iterator[Event]:
    for line in lines:
        with contextlib.suppress(orjson.JSONDecodeError):
            found = orjson.loads(line)
            if isinstance(found, dict) and isinstance(found.get("kind"), str):
                yield found
