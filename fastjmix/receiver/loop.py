"""The receiver process: one event loop for all connections.

Wanted: one thread that is never blocked by one peer.
Guaranteed: every wait for a peer has a deadline. A fault while one connection is served ends that
connection only. The drain ends each association between two messages. A new configuration is taken
between two turns.

The parts do the work: listeners.py accepts, establishment.py answers requests, data_transfer.py
moves the data, upper_layer.py has the sockets and the states, poller.py waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import Final

from fastjmix.config import Config
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.configuration import NewConfiguration
from fastjmix.ipc.ingest_rules import IngestRulesTable
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.receiver.associate import AssociateRequests
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.data_transfer import DataTransfer
from fastjmix.receiver.displacement import FullRejections
from fastjmix.receiver.draining import Draining
from fastjmix.receiver.establishment import Establishment
from fastjmix.receiver.lane_pool import LanePool
from fastjmix.receiver.listeners import Listeners
from fastjmix.receiver.messages import Messages
from fastjmix.receiver.peer_log import PeerLog
from fastjmix.receiver.poller import Poller
from fastjmix.receiver.reports import Reports
from fastjmix.receiver.states import Event, State
from fastjmix.receiver.upper_layer import PROVIDER, USER, UpperLayer, fail, guarded
from fastjmix.spool import FreeSpace

TICK_SECS: Final = 0.5
"""How often deadlines are looked at."""


class Receiver:
    """The event loop of one receiver process. `number` counts receivers from 0."""

    def __init__(
        self,
        config: Config,
        rules: IngestRulesTable,
        number: int,
        shared_lanes: SharedLanes,
        channels: Channels,
        sockets: Sequence[socket.socket],
    ) -> None:
        """Sets up every part.

        It is longer than other functions: every part is here, after all that it calls.
        """
        self._wake = shared_lanes.wake[number]
        self._stop = channels.stop
        self._inbox = channels.configuration
        self._grace = config.runtime.grace_secs
        self._drained_by: float | None = None
        self._next_tick = 0.0
        self._poller = Poller(shared_lanes.passage.lanes, number)
        self._epoll = self._poller.epoll
        self._listeners = Listeners(rules.listeners, sockets, self._epoll, channels.outliving)
        self._peer_log = PeerLog()
        self._room = FreeSpace.of(config, channels.metrics)
        self._reports = Reports(channels.events)
        self._pool = LanePool(shared_lanes, number)
        self._rejections = FullRejections(channels.metrics)
        self._upper_layer = UpperLayer(
            rules.listeners,
            self._epoll,
            channels.metrics,
            self._pool,
            self._peer_log,
            self._reports,
        )
        self._draining = Draining(channels.drain, number, self._listeners, self._upper_layer)
        self._transfer = DataTransfer(
            self._upper_layer,
            Messages(shared_lanes, channels.metrics, self._reports),
            self._poller,
            channels.metrics,
        )
        self._requests = AssociateRequests(
            rules.rows,
            self._room,
            shared_lanes,
            channels.metrics,
            self._pool,
            self._peer_log,
            self._rejections,
            self._reports,
        )
        self._establishment = Establishment(
            self._upper_layer,
            self._requests,
            self._transfer,
            shared_lanes.passage.lanes,
            channels,
            self._draining.rejects,
        )

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the stop descriptor is readable and the instances in flight are done."""
        self._pool.reclaim()
        inbox = self._inbox.descriptor if self._inbox is not None else -1
        for descriptor in (self._wake, self._stop, inbox):
            if descriptor >= 0:
                self._epoll.register(descriptor, select.EPOLLIN)
        self._listeners.listen()
        self._draining.look()
        connections = self._upper_layer.connections
        while self._drained_by is None or connections or self._pool.retiring:
            for descriptor, events in self._wait():
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                    self._draining.look()
                elif descriptor in connections:  # not closed by an event before it
                    self._serve(connections[descriptor], events)
                elif descriptor == self._stop:
                    self._begin_drain()
                elif descriptor == inbox:
                    self._take_configuration()
                elif descriptor in self._listeners:
                    for accepted in self._listeners.accept(descriptor):
                        self._establishment.connect(*accepted)
            self._serve_granted()
            if self._draining.lasts:
                self._draining.look()
            now = time.monotonic()
            if now >= self._next_tick:
                self._tick(now)

    def _wait(self) -> list[tuple[int, int]]:
        """Waits for the sockets, the packers and the next tick."""
        upper = self._upper_layer
        if upper.connections or self._pool.retiring:
            awaited = upper.awaiting_status.values()
            return self._poller.wait(awaited, self._something_is_granted, self._next_tick)
        timed = self._pool.needs_tick or self._listeners.resting or self._peer_log.unlisted
        return self._poller.idle(TICK_SECS if timed else -1)

    def _serve(self, connection: Connection, events: int) -> None:
        """Handles what epoll(7) reports of a connection; the rest of it is reported again."""
        try:
            if connection.association is not None:  # Sta6
                if events & select.EPOLLOUT:
                    self._transfer.flush(connection)
                elif connection in self._upper_layer.paused:  # EPOLLHUP, EPOLLERR
                    self._upper_layer.lost(connection, "connection reset")
                else:
                    self._transfer.receive(connection)
            elif connection.state is State.AWAITING_RQ:
                self._establishment.receive(connection)
            elif events & select.EPOLLOUT:
                self._upper_layer.flush(connection)
            else:
                self._upper_layer.discard(connection)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            why = problem.strerror or str(problem)
            guarded(self._upper_layer, lambda one: self._upper_layer.lost(one, why), connection)
        except Exception as problem:
            fail(self._upper_layer, connection, problem)

    def _something_is_granted(self) -> bool:
        """Returns True when a packer has given a status, made room, or let go of a lane. Called
        after this process has said that it sleeps: a packer that does so later wakes it.
        """
        upper = self._upper_layer
        return (
            any(scanner.granted for scanner in upper.awaiting_status.values())
            or any(not scanner.stalled for scanner in upper.paused.values())
            or self._pool.can_settle
        )

    def _serve_granted(self) -> None:
        """Sends the responses that packers have granted, reads where there is room again, and gives
        back lanes that packers have let go of.
        """
        upper = self._upper_layer
        if upper.awaiting_status:
            for one in [c for c, scanner in upper.awaiting_status.items() if scanner.granted]:
                guarded(upper, self._transfer.grant, one)
        if upper.paused:
            for one in [c for c, scanner in upper.paused.items() if not scanner.stalled]:
                guarded(upper, self._transfer.resume, one)
        if self._pool.retiring:
            self._pool.settle()

    # -- a new configuration -----------------------------------------------------------------

    def _take_configuration(self) -> None:
        assert self._inbox is not None
        for new in self._inbox.each():
            self.adopt(new)

    def adopt(self, new: NewConfiguration) -> None:
        """Goes by a new configuration. Connections that have not asked for an association yet, and
        later ones, get its settings; associations keep those with which they began, and count at
        their listener as before.
        """
        if self._drained_by is not None:
            for listening in new.dicom:
                listening.close()
            return
        self._grace = new.config.runtime.grace_secs
        self._room.configure(new.config)
        self._requests.go_by(new.rules.rows)
        self._upper_layer.bound(new.rules.listeners)
        self._listeners.replace(new.rules.listeners, new.dicom)
        self._upper_layer.renew(self._listeners.by_number)

    # -- timers and the drain ----------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK_SECS
        upper = self._upper_layer
        for connection in upper.each():
            guarded(upper, self._check_deadline, connection)
        self._peer_log.tick(now)
        self._reports.tick()
        self._pool.tick(now)
        self._listeners.tick()
        if self._rejections.others_rejected():
            self._establishment.displace(None, lambda _: True)

    def _check_deadline(self, connection: Connection) -> None:
        upper, now, association = self._upper_layer, time.monotonic(), connection.association
        grace_is_over = self._drained_by is not None and now >= self._drained_by
        if association is None:
            if now >= connection.deadline or grace_is_over:
                upper.transition(connection, Event.ARTIM_EXPIRED)
        elif grace_is_over:
            upper.abort(connection, PROVIDER, 0, "shutting down: grace_secs is over")
        elif now >= connection.deadline:
            upper.abort(connection, USER, 0, self._overdue(connection, association))
        elif not association.pace.is_kept(
            connection.limits, association.scanner, now, paused=connection in upper.paused
        ):
            upper.abort(connection, USER, 0, "slower than min_bytes_per_sec")

    def _overdue(self, connection: Connection, association: Association) -> str:
        """Returns the name of the wait that took too long."""
        if connection in self._upper_layer.awaiting_status:
            return "no status from the packer in time"
        if connection in self._upper_layer.paused:
            return "no room in the lane in time: the packer is behind"
        midway = association.scanner.midway or connection.outgoing
        return "stalled inside a message" if midway else "idle"

    def _begin_drain(self) -> None:
        """Accepts nobody any more, and ends each connection without a message at hand."""
        upper = self._upper_layer
        self._epoll.unregister(self._stop)
        self._drained_by = time.monotonic() + self._grace
        upper.draining = True
        self._listeners.close()
        for connection in upper.each():
            if connection.association is None:
                upper.transition(connection, Event.CLOSE)
            elif connection.association.is_between_messages:
                upper.abort(connection, PROVIDER, 0, "shutting down")


def run(
    config: Config,
    rules: IngestRulesTable,
    number: int,
    shared_lanes: SharedLanes,
    channels: Channels,
    sockets: Sequence[socket.socket],
) -> None:
    """Runs the receiver process; returns when it has drained."""
    Receiver(config, rules, number, shared_lanes, channels, sockets).run()
