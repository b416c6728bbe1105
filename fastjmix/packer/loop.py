"""The packer process: waits, takes what has arrived, and runs the parts in their order.

Wanted: an instance is appended once it is whole, answered once it is durable, and digested while
its sender is busy with the next one.
Guaranteed: what has arrived comes first. When nothing more has, all that was appended is committed
together (group_commit.py). Digests are made when nothing waits for a commit, and are interrupted
when a timer is due. Timers, seals and recovery come when no instance does. An idle process sleeps.
It never sees a DICOM socket.
"""

from __future__ import annotations

import math
import os
import select
import time
from typing import Final

from fastjmix import _core, log
from fastjmix.config import Config
from fastjmix.dicom.dimse import Status
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.ingest_rules import IngestRulesTable
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.packer.parts import Parts, connect
from fastjmix.spool import Spool

SPIN_TURNS: Final = 20_000
"""Looks at the lanes before sleeping, a sched_yield every 50: the measured optimum of a hand-over
between two processes on two cores (ARCHITECTURE.md, "Waking")."""

LOOK_SECS: Final = 0.1
"""How often a packer that is never idle reads what other processes wrote to it."""

NAP_SECS: Final = 1.0
"""The longest sleep while an association is live: a wake-up that was lost costs no more."""


class Packer:
    """The loop of the packer `number`, counted from 0, around its parts."""

    def __init__(
        self, parts: Parts, number: int, shared_lanes: SharedLanes, channels: Channels
    ) -> None:
        self._parts = parts
        self._process = shared_lanes.receivers + number
        self._lanes = shared_lanes.passage.lanes
        self._stop = channels.stop
        self._outcomes = channels.outcomes[f"packer-{number}"].fileno()
        # poll(2) fails for more descriptors than the process may have open; epoll_wait(2) does not.
        self._poll = select.epoll()
        self._inbox = channels.configuration
        for descriptor in (shared_lanes.wake[self._process], self._stop, self._outcomes):
            self._poll.register(descriptor, select.EPOLLIN)
        if self._inbox is not None:
            self._poll.register(self._inbox.descriptor, select.EPOLLIN)
        self._next_look = 0.0
        self._events = channels.events
        self._stopping = False

    def run(self) -> None:
        """Packs until the stop descriptor is readable, then seals everything and returns."""
        parts = self._parts
        parts.takeover.start()
        while True:
            parts.joins.settle()
            self._look_around()
            undigested = parts.digests.oldest
            if self._take_arrival(other_work=undigested is not None or parts.commit.waiting):
                parts.schedule.seal_largest()
                parts.digests.catch_up()
                continue
            if parts.commit.waiting:
                parts.commit.commit()
                parts.digests.catch_up()
                continue
            if undigested is not None:
                parts.digests.step(undigested)
                if not self._take_messages(timeout=0) and not self._overdue():
                    continue
            self._run_timers()
            if self._finished():
                break
            if parts.digests.oldest is None and not parts.draining.step():
                self._sleep()
        parts.schedule.seal_all()
        parts.recoveries.finish()
        parts.joins.drain()

    # -- one turn ----------------------------------------------------------------------------

    def _take_arrival(self, *, other_work: bool) -> bool:
        """Handles one event of the lanes; returns False when there is none.

        With other work at hand each lane is looked at once, so that the work is not late. Spins
        only while an association is live, and no timer is due.
        """
        intake = self._parts.intake
        turns = 0
        if not other_work:
            turns = SPIN_TURNS if intake.listening and not self._overdue() else 1
        report = intake.poll(turns)
        if report is None:
            return False
        self.handle(*report)
        return True

    def handle(self, event: int, lane: int) -> None:
        """Handles an event of a lane (_core/intake.pxi)."""
        parts = self._parts
        if event == _core.ARRIVED:
            parts.arrivals.take(lane)
        elif event == _core.SPILL:
            parts.spill_writer.write(lane)
        elif event == _core.CLOSED:
            parts.senders.association_ended(parts.intake.association)
        elif event == _core.SPACE_FREED:
            parts.statuses.wake_receiver(lane)
        elif event == _core.FORGOTTEN:
            parts.senders.association_broke_off(lane)
            parts.spilled.forget(lane)
            parts.statuses.give(lane, Status.INTERNAL)
        elif event == _core.LOST:
            log.get().error("instance_lost", lane=lane, why="the packer that held it died")
            parts.statuses.out_of_resources(lane, b"the packer restarted; send again")
        else:
            raise ValueError(f"lane {lane} reports {event}")

    def _run_timers(self) -> None:
        parts = self._parts
        parts.sealing.settle()
        parts.schedule.seal_due()
        parts.recoveries.retry_due()
        parts.reservation.publish()
        parts.takeover.resume_if_recovered()
        self._events.flush()

    def _finished(self) -> bool:
        parts = self._parts
        return self._stopping and not parts.awaiting and not parts.joins.busy

    def _look_around(self) -> None:
        """Reads what other processes wrote, every LOOK_SECS: under load nothing else does."""
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECS
            self._take_messages(timeout=0)

    def _take_configuration(self) -> None:
        assert self._inbox is not None
        for new in self._inbox.each():
            self._parts.adoption.adopt(new)

    # -- waiting -----------------------------------------------------------------------------

    def _next_due(self) -> float:
        parts = self._parts
        return min([*parts.recoveries.due, parts.envelopes.due, parts.health.due])

    def _overdue(self) -> bool:
        return self._next_due() <= time.monotonic()

    def _sleep(self) -> None:
        """Sleeps until an event, a message, or the next timer."""
        seconds = max(0.0, self._next_due() - time.monotonic())
        if self._parts.intake.listening:
            seconds = min(seconds, NAP_SECS)
        self._lanes.doze(self._process)
        try:
            report = self._parts.intake.poll(1)
            if report is not None:
                self.handle(*report)
                return
            ready = self._poll.poll(None if math.isinf(seconds) else seconds + 0.001)
        finally:
            self._lanes.rouse(self._process)
        self._read(ready)

    def _take_messages(self, timeout: int) -> bool:
        """Reads what other processes wrote to this one; returns False when there is nothing."""
        ready = self._poll.poll(timeout)
        self._read(ready)
        return bool(ready)

    def _read(self, ready: list[tuple[int, int]]) -> None:
        for descriptor, _ in ready:
            if descriptor == self._stop:
                self._stopping = True
                self._poll.unregister(descriptor)
            elif descriptor == self._outcomes:
                self._parts.awaiting.take_outcomes()
            elif self._inbox is not None and descriptor == self._inbox.descriptor:
                self._take_configuration()
            else:
                os.eventfd_read(descriptor)


def run(
    config: Config,
    rules: IngestRulesTable,
    number: int,
    shared_lanes: SharedLanes,
    channels: Channels,
    spool: Spool,
) -> None:
    """Runs the packer process: returns when it has sealed everything."""
    parts = connect(config, rules, number, shared_lanes, channels, spool)
    Packer(parts, number, shared_lanes, channels).run()
