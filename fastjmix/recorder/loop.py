"""Runs the process that writes the ledger: reads events, writes them in batches, and compares the
ledger with the directories.

Wanted: nothing in the data path waits for it, and it takes the processor last (nice 10).
Guaranteed: a ledger that cannot be written (disk full, read-only, locked, damaged, gone) stops
nothing. Its events wait here, EVENTS_MAX at most; then the oldest are counted as lost. It is tried
again with a pause that grows, and afterwards compared with the files. At the stop it takes the last
events: the uploader has ended before.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections import deque
from itertools import islice
from typing import Final

from fastjmix import log
from fastjmix.config import Config, LedgerSettings
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.events import LOST, EventReader
from fastjmix.ledger.kinds import Event
from fastjmix.recorder.chores import Chores
from fastjmix.recorder.counters import Counters
from fastjmix.recorder.report import Report
from fastjmix.recorder.store import Store, StoreFailed
from fastjmix.spool.root import Root

NICE: Final = 10

GATHER_SECS: Final = 0.2
"""Seconds for which events gather before they are written: one transaction for a burst."""

BATCH_MAX: Final = 2000
"""Events of one transaction."""

EVENTS_MAX: Final = 20_000
"""Events that wait for a ledger that cannot be written: some 40 MB of 400 bytes each."""

CHILD_DIED: Final = "child_died"
"""The supervisor's error for a process that ended: it may not have told all that it did."""

REST_SECS: Final = 5.0
"""After so long without an event or a chore the ledger's file is closed."""

RETRY_SECS: Final = 2.0
RETRY_MAX_SECS: Final = 60.0
"""The pause after a failure doubles from RETRY_SECS to RETRY_MAX_SECS."""


class Recorder:
    """The process, between its descriptors and its file."""

    def __init__(
        self, root: Root, settings: LedgerSettings, channels: Channels, events: int
    ) -> None:
        """`events` is the reading end of the pipe."""
        self._channels = channels
        self._inbox = channels.configuration
        self._reader = EventReader(events)
        self._waiting: deque[Event] = deque()
        self._store = Store(root, settings)
        self._chores = Chores(self._store, settings)
        self._counters = Counters()
        self._report = Report(channels.board, self._counters)
        self._pause = RETRY_SECS
        self._retry_at = 0.0
        self._worked_at = 0.0

    def adopt(self, settings: LedgerSettings) -> None:
        """Takes over other settings; what they no longer keep is deleted soon."""
        self._store.adopt(settings)
        self._chores.adopt(settings)

    def serve(self) -> None:
        """Runs until `Channels.stop` is readable, and then until the pipe is empty."""
        poll = select.poll()
        poll.register(self._reader.descriptor, select.POLLIN)
        poll.register(self._channels.stop, select.POLLIN)
        if self._inbox is not None:
            poll.register(self._inbox.descriptor, select.POLLIN)
        stop = select.poll()
        stop.register(self._channels.stop, select.POLLIN)
        stopping = False
        while not stopping:
            self._work()
            ready = {number for number, _ in poll.poll(self._wait_ms())}
            if self._reader.descriptor in ready and self._channels.stop not in ready:
                ready |= {number for number, _ in stop.poll(GATHER_SECS * 1000)}
            stopping = self._channels.stop in ready
            self._take_configuration()
        self._take_the_rest()
        self._store.close()

    def _take_configuration(self) -> None:
        if self._inbox is not None:
            for new in self._inbox.each():
                self.adopt(new.config.ledger)

    def _wait_ms(self) -> float:
        now = time.monotonic()
        if now < self._retry_at:
            return (self._retry_at - now) * 1000 + 1
        if self._waiting:
            return 0.0
        secs = self._chores.wait_secs
        if self._store.is_open:
            secs = min(secs, max(0.0, self._worked_at + REST_SECS - now))
        return secs * 1000 + 1

    def _work(self) -> None:
        """Reads what the pipe holds, writes a batch, takes a step of the chores, publishes."""
        self._read()
        if time.monotonic() >= self._retry_at:
            try:
                worked = self._write()
                if self._chores.step() or worked:
                    self._worked_at = time.monotonic()
                elif time.monotonic() >= self._worked_at + REST_SECS:
                    self._store.rest()
            except StoreFailed as problem:
                self._failed(str(problem))
            else:
                self._report.succeeded()
                self._pause = RETRY_SECS
        size = self._store.size
        self._report.publish(len(self._waiting), self._chores.behind, size)

    def _read(self) -> None:
        while found := self._reader.read():
            for event in found:
                if event.get("event") == CHILD_DIED:
                    self._chores.compare_soon()
                self._counters.count(event)
                self._waiting.append(event)
            if len(self._waiting) >= EVENTS_MAX:
                break
        while len(self._waiting) > EVENTS_MAX:
            self._waiting.popleft()
            self._channels.metrics.add(LOST)

    def _write(self) -> bool:
        """Writes a batch of what waits. Returns False when nothing does. Raises StoreFailed; the
        batch then waits on."""
        batch = list(islice(self._waiting, BATCH_MAX))
        if not batch:
            return False
        try:
            self._store.apply(batch)
        except StoreFailed:
            raise
        except Exception as problem:  # ours: an event that we cannot write must not come again
            log.get().error("ledger_fault", events=len(batch), exc_info=problem)
            self._chores.compare_soon()
            self._channels.metrics.add(LOST, len(batch))
        for _ in batch:
            self._waiting.popleft()
        return True

    def _failed(self, why: str) -> None:
        self._report.failed(why)
        self._chores.compare_soon()
        self._retry_at = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, RETRY_MAX_SECS)

    def _take_the_rest(self) -> None:
        """Writes the events that are left, unless the ledger cannot be written."""
        with contextlib.suppress(StoreFailed):
            self._read()
            while self._waiting:
                self._write()
                self._read()


def run(config: Config, root: Root, channels: Channels, events: int) -> None:
    """Runs the forked child; returns when the drain is over. Logging is set up by the caller.

    `root` was claimed by the supervisor. `events` is the reading end of the events' pipe. SIGINT,
    which a terminal sends to the whole group, is left to the supervisor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICE)
    Recorder(root, config.ledger, channels, events).serve()
