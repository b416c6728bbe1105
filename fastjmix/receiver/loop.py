"""The receiver process: one event loop for all connections.

Wanted: one thread that is never blocked by one peer.
Guaranteed: every wait for a peer has a deadline. A fault while one connection is served ends that
connection only. The drain ends each association between two messages.

The parts do the work: listeners.py accepts, associate.py decides about requests, upper_layer.py has
the sockets and the states, data_transfer.py moves the data, poller.py waits.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from fastjmix import log
from fastjmix._core import PdvScanner
from fastjmix.config import Config
from fastjmix.ipc.channels import Links
from fastjmix.ipc.wiring import Wiring
from fastjmix.receiver.associate import (
    AssociateRequests,
    Invalid,
    NoPlace,
    Opening,
    Rejection,
    log_accepted,
)
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.data_transfer import PROVIDER, USER, DataTransfer
from fastjmix.receiver.displacement import HOLD_SECS, FullRejections, to_displace
from fastjmix.receiver.lane_pool import LanePool
from fastjmix.receiver.listener import Listener
from fastjmix.receiver.listeners import Listeners
from fastjmix.receiver.messages import Messages
from fastjmix.receiver.peer_log import PeerLog
from fastjmix.receiver.poller import Poller
from fastjmix.receiver.states import TRANSITIONS, Event, State
from fastjmix.receiver.upper_layer import UpperLayer

TICK_SECS: Final = 0.5
"""How often deadlines are looked at."""


class Receiver:
    """The event loop of one receiver process. `number` counts receivers from 0."""

    def __init__(
        self,
        config: Config,
        number: int,
        wiring: Wiring,
        links: Links,
        sockets: Sequence[socket.socket],
    ) -> None:
        self._wake = wiring.wake[number]
        self._stop = links.stop
        self._lanes = wiring.passage.lanes
        self._stats = links.stats
        self._log = log.get()
        self._grace = config.runtime.grace_secs
        self._drained_by: float | None = None
        self._next_tick = 0.0

        self._poller = Poller(self._lanes, number)
        self._epoll = self._poller.epoll
        self._listeners = Listeners(config, sockets, self._epoll)
        self._peer_log = PeerLog()
        self._pool = LanePool(wiring, number)
        self._rejections = FullRejections(links.stats)
        self._requests = AssociateRequests(
            config, wiring, links.stats, self._pool, self._peer_log, self._rejections
        )
        self._upper_layer = UpperLayer(config, self._epoll, links.stats, self._pool, self._peer_log)
        messages = Messages(wiring, links.stats)
        self._transfer = DataTransfer(self._upper_layer, messages, self._poller, links.stats)

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the stop descriptor is readable and the instances in flight are done."""
        self._pool.reclaim()
        for descriptor in (self._wake, self._stop):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._listeners.listen()
        connections = self._upper_layer.connections
        while self._drained_by is None or connections or self._pool.retiring:
            for descriptor, events in self._wait():
                if descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                elif descriptor in connections:  # not closed by an event before it
                    self._serve(connections[descriptor], events)
                elif descriptor == self._stop:
                    self._begin_drain()
                elif descriptor in self._listeners:
                    self._accept(descriptor)
            self._serve_granted()
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
                self._receive_request(connection)
            elif events & select.EPOLLOUT:
                self._upper_layer.flush(connection)
            else:
                self._upper_layer.discard(connection)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            why = problem.strerror or str(problem)
            self._guarded(lambda one: self._upper_layer.lost(one, why), connection)
        except Exception as problem:
            self._failed(connection, problem)

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
                self._guarded(self._transfer.grant, one)
        if upper.paused:
            for one in [c for c, scanner in upper.paused.items() if not scanner.stalled]:
                self._guarded(self._transfer.resume, one)
        if self._pool.retiring:
            self._pool.settle()

    def _guarded(self, step: Callable[[Connection], None], connection: Connection) -> None:
        try:
            step(connection)
        except Exception as problem:
            self._failed(connection, problem)

    def _failed(self, connection: Connection, problem: Exception) -> None:
        """Ends one connection after a fault of fastjmix. The others are not concerned."""
        self._log.exception("connection_failed", peer=connection.peer, why=repr(problem))
        possible = TRANSITIONS[connection.state]
        with contextlib.suppress(OSError):
            if Event.ABORT in possible:
                self._upper_layer.abort(connection, PROVIDER, 0, "a fault of fastjmix")
            elif Event.CLOSE in possible:
                self._upper_layer.transition(connection, Event.CLOSE)

    # -- connections, and requests for an association (Sta1 to Sta6) --------------------------

    def _accept(self, descriptor: int) -> None:
        for listener, accepted, address in self._listeners.accept(descriptor):
            try:
                if self._make_half_open_place(listener, address[0]):
                    self._upper_layer.connect(listener, accepted, address)
                else:
                    accepted.close()
            except OSError as problem:  # it is gone, or there is no memory to watch it
                self._log.warning("accept_failed", why=problem.strerror)
                accepted.close()

    def _make_half_open_place(self, listener: Listener, host: str) -> bool:
        """Returns False when max_half_open are reached, and the newcomer is to be closed."""
        half_open = self._upper_layer.half_open[listener.index]
        if not half_open.is_full:
            return True
        self._stats.add("connections_turned_away_total")
        closed = half_open.to_close_for(host)
        if closed is not None:
            self._upper_layer.transition(closed, Event.CLOSE)
        return closed is not None

    def _receive_request(self, connection: Connection) -> None:
        """Takes an A-ASSOCIATE-RQ, in as many pieces as the peer likes, and answers it."""
        upper = self._upper_layer
        data = connection.socket.recv(65536)
        if not data:
            upper.lost(connection, "closed before an A-ASSOCIATE-RQ")
            return
        answer = self._requests.receive(connection, data, draining=upper.draining)
        if answer is None:
            return
        if isinstance(answer, Invalid):
            upper.abort(connection, PROVIDER, answer.reason, answer.why, Event.INVALID_PDU)
            return
        upper.transition(connection, Event.ASSOCIATE_RQ)
        if isinstance(answer, NoPlace):
            answer = self._displace_or_reject(connection, answer)
        if isinstance(answer, Rejection):
            upper.send_last(connection, Event.REJECT, answer.pdu)
        else:
            self._open(connection, answer)

    def _displace_or_reject(self, connection: Connection, asked: NoPlace) -> Opening | Rejection:
        if self._displace(connection.host, asked.among):
            again = self._requests.place(connection, asked.accepted, asked.rules, asked.rest)
            if isinstance(again, Opening):
                return again
        return self._requests.reject(connection, asked)

    def _displace(self, host: str | None, among: Callable[[Association], bool]) -> bool:
        """Ends an association that stores nothing. Returns False when there is none."""
        upper = self._upper_layer
        found = to_displace(upper.connections.values(), time.monotonic(), among, host, upper.paused)
        if found is None:
            return False
        self._stats.add("associations_displaced_total")
        why = f"stored nothing for {HOLD_SECS:.0f} s, and others wait"
        self._guarded(lambda one: upper.abort(one, USER, 0, why), found)
        return True

    def _open(self, connection: Connection, opening: Opening) -> None:
        """Accepts an association (AE-7)."""
        accepted, listener = opening.accepted, connection.listener
        number = self._lanes.new_association()
        self._lanes.open(opening.lane, number, listener.index, accepted.calling_ae.encode())
        scanner = PdvScanner(self._lanes, opening.lane, listener.config.max_pdu)
        connection.association = association = Association(
            number, connection.peer, listener.config, accepted, scanner, opening.rules
        )
        self._upper_layer.transition(connection, Event.ACCEPT)
        self._stats.add("associations_accepted_total")
        self._stats.add("associations_open")
        log_accepted(association)
        if self._upper_layer.send(connection, accepted.pdu):
            self._transfer.begin(connection, association, opening.rest)

    # -- timers and the drain ----------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK_SECS
        for connection in self._upper_layer.each():
            self._guarded(self._check_deadline, connection)
        self._peer_log.tick(now)
        self._pool.tick(now)
        self._listeners.tick()
        if self._rejections.others_rejected():
            self._displace(None, lambda _: True)

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
    number: int,
    wiring: Wiring,
    links: Links,
    sockets: Sequence[socket.socket],
) -> None:
    """Runs the receiver process; returns when it has drained."""
    Receiver(config, number, wiring, links, sockets).run()
