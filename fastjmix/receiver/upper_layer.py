"""The upper layer of one receiver (PS3.8): its connections, their sockets and their states.

Guaranteed: this module alone sends, closes, and has epoll(7) watch connections. A connection's
state changes in `UpperLayer.transition` alone, by the table in states.py. Leaving Sta6 always ends
the association and retires its lane; entering Sta13 always starts the ARTIM timer; entering Sta1
always closes the socket. A response leaves in one send(2).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from fastjmix import log
from fastjmix._core import PdvScanner
from fastjmix.dicom.association import abort_pdu
from fastjmix.ipc.ingest_rules import ListenerRules
from fastjmix.ipc.metrics import Metrics
from fastjmix.receiver.connection import GRANT_SECS, Association, Connection
from fastjmix.receiver.half_open import HalfOpen
from fastjmix.receiver.lane_pool import LanePool
from fastjmix.receiver.listener import CLOSING_MAX, Listener, set_options
from fastjmix.receiver.measures import log_pairs
from fastjmix.receiver.peer_log import PeerLog
from fastjmix.receiver.reports import Reports
from fastjmix.receiver.states import TRANSITIONS, Event, State
from fastjmix.transport.proxy_header import HEADER_SECS, is_trusted

USER, PROVIDER = 0, 2
"""PS3.8 Table 9-26: sources of an A-ABORT, the service user and the service provider."""


class UpperLayer:
    """All connections of one receiver, by descriptor.

    `half_open` bounds those of each listener that have no association yet, by its number.
    `awaiting_status` are those whose instance a packer has, `paused` those that are not read (a
    full lane, or the end of their turn), each with the scanner of its association: both hold
    connections in Sta6 only. While `draining`, an association that was rejected or aborted is
    closed at once.

    The class is large because it alone touches a connection's socket: what is sent, what epoll
    watches, and the end depend on each other.
    """

    def __init__(
        self,
        listeners: Iterable[ListenerRules],
        epoll: select.epoll,
        metrics: Metrics,
        pool: LanePool,
        peers: PeerLog,
        reports: Reports,
    ) -> None:
        self.connections: dict[int, Connection] = {}
        self.awaiting_status: dict[Connection, PdvScanner] = {}
        self.paused: dict[Connection, PdvScanner] = {}
        self.half_open: dict[int, HalfOpen] = {}
        self.draining = False
        self._closing: dict[Connection, None] = {}
        self._epoll = epoll
        self._metrics = metrics
        self._pool = pool
        self._peers = peers
        self._reports = reports
        self._log = log.get()
        self.bound(listeners)

    def bound(self, listeners: Iterable[ListenerRules]) -> None:
        """Bounds the half-open connections of these listeners, by their numbers. Those that are
        half open now stay counted, also at a listener that is no more."""
        for one in listeners:
            most = one.listener.limits.max_half_open
            self.half_open.setdefault(one.number, HalfOpen(most)).allow(most)

    def renew(self, listeners: Mapping[int, Listener]) -> None:
        """Gives each connection that has sent no request yet the listener of the same number."""
        for connection in self.connections.values():
            if connection.state is State.AWAITING_RQ:
                number = connection.listener.number
                connection.listener = listeners.get(number, connection.listener)

    def each(self) -> Iterator[Connection]:
        """Yields the connections, but not one that was closed before its turn: to end one may close
        another.
        """
        for connection in list(self.connections.values()):
            if connection.state is not State.CLOSED:
                yield connection

    def connect(
        self, listener: Listener, accepted: socket.socket, address: tuple[str, int]
    ) -> None:
        """Adds a connection, in Sta2 (AE-5). Raises OSError when it cannot be watched."""
        set_options(accepted)
        self._epoll.register(accepted.fileno(), select.EPOLLIN)
        host, port = address[:2]
        limits = listener.config.limits
        deadline = time.monotonic() + limits.acse_timeout_secs
        connection = Connection(accepted, host, f"{host}:{port}", listener, limits, deadline)
        if is_trusted(host, listener.config.proxies):
            connection.awaits_header = True
            connection.deadline = min(deadline, time.monotonic() + HEADER_SECS)
        self.half_open[listener.number].add(connection)
        self.connections[accepted.fileno()] = connection

    # -- the state ---------------------------------------------------------------------------

    def transition(self, connection: Connection, event: Event, how: str = "") -> None:
        """Takes a connection to its next state. `how` says for the log how an association ends."""
        left, entered = connection.state, TRANSITIONS[connection.state][event]
        connection.state = entered
        if left is State.AWAITING_RQ:
            self.half_open[connection.listener.number].remove(connection)
            connection.received.clear()
        elif left is State.OPEN:
            self._end_association(connection, how)
        elif left is State.CLOSING:
            del self._closing[connection]
        if entered is State.CLOSING:
            self._start_artim(connection)
        elif entered is State.CLOSED:
            self._close(connection)

    def _end_association(self, connection: Connection, how: str) -> None:
        """Leaves Sta6. The lane is given back as soon as no packer looks at it."""
        association, connection.association = connection.association, None
        assert association is not None
        self._metrics.add("associations_open", -1)
        facts = association.facts()
        self._log.info(
            "association_ended",
            association=association.number,
            calling_ae=association.accepted.calling_ae,
            peer=association.peer,
            how=how,
            stored=facts["stored"],
            refused=facts["refused"] or None,
            called_ae=association.accepted.called_ae,
            **log_pairs(facts),
        )
        self._reports.association_ended(association, how, facts)
        self.awaiting_status.pop(connection, None)
        if connection in self.paused:
            del self.paused[connection]
            self._watch(connection)
        self._pool.retire(association.scanner)

    def _start_artim(self, connection: Connection) -> None:
        """Enters Sta13, which is bounded in time and in number."""
        connection.deadline = time.monotonic() + connection.limits.acse_timeout_secs
        self._closing[connection] = None
        if len(self._closing) > CLOSING_MAX:
            self.transition(next(iter(self._closing)), Event.CLOSE)

    def _close(self, connection: Connection) -> None:
        """Enters Sta1."""
        descriptor = connection.socket.fileno()
        del self.connections[descriptor]
        self._epoll.unregister(descriptor)
        connection.socket.close()

    # -- sending -----------------------------------------------------------------------------

    def send(self, connection: Connection, data: bytes) -> bool:
        """Sends with one send(2); what the kernel does not take waits for EPOLLOUT. Returns False
        when the connection is lost, and closed.
        """
        if not connection.outgoing:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as problem:
                self.lost(connection, problem.strerror or str(problem))
                return False
            if sent == len(data):
                return True
            data = data[sent:]
        connection.outgoing += data
        self._watch(connection)
        return True

    def flush(self, connection: Connection) -> bool:
        """Sends what the kernel did not take before. Returns True when it has taken all of it."""
        data = bytes(connection.outgoing)
        connection.outgoing.clear()
        if not self.send(connection, data) or connection.outgoing:
            return False
        self._watch(connection)
        return True

    def _watch(self, connection: Connection) -> None:
        """Watches the socket for the next step. A peer that does not read its responses is not read
        either.
        """
        events = 0 if connection in self.paused else select.EPOLLIN
        if connection.outgoing:
            events = select.EPOLLOUT
        self._epoll.modify(connection.socket.fileno(), events)

    # -- waits -------------------------------------------------------------------------------

    def await_status(self, connection: Connection, association: Association) -> None:
        """Waits for the status of an instance that a packer has."""
        secs = GRANT_SECS
        if association.listener.ack == "uploaded":
            size = association.scanner.data_bytes
            # An upload of the envelope (one instance and its documents), and a 409 to verify.
            secs += max(to.attempt_secs(size) for to in association.listener.every_upstream)
        connection.deadline = time.monotonic() + secs
        self.awaiting_status[connection] = association.scanner

    def pause(self, connection: Connection, scanner: PdvScanner) -> None:
        """Stops reading a connection, until there is room in its lane, or its next turn."""
        if connection in self.paused:
            return
        self.paused[connection] = scanner
        if connection not in self.awaiting_status:
            connection.deadline = time.monotonic() + GRANT_SECS
        scanner.request_space()
        self._epoll.modify(connection.socket.fileno(), 0)

    def resume(self, connection: Connection) -> None:
        """Reads a paused connection again."""
        del self.paused[connection]
        self._watch(connection)

    # -- endings -----------------------------------------------------------------------------

    def abort(
        self, connection: Connection, source: int, reason: int, why: str, event: Event = Event.ABORT
    ) -> None:
        """Sends an A-ABORT (PS3.8 Table 9-26), and awaits the close (AA-1, AA-8)."""
        self._metrics.add("associations_aborted_total")
        if connection.association is None:
            self._peers.warning(
                "connection_aborted",
                peer=connection.peer,
                why=why,
                endpoint=connection.listener.config.endpoint,
                **connection.about,
            )
            self._reports.rejection(connection, why)
        self.send_last(connection, event, abort_pdu(source, reason), f"aborted: {why}")

    def send_last(self, connection: Connection, event: Event, pdu: bytes, how: str = "") -> None:
        """Sends the last PDU of a connection, which leads to Sta13: the peer closes, so that it can
        read what was sent.
        """
        self.transition(connection, event, how)
        if not self.send(connection, pdu):
            return
        if self.draining:
            self.transition(connection, Event.CLOSE)
        elif not connection.outgoing:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)

    def lost(self, connection: Connection, why: str) -> None:
        """Closes a connection that the peer has closed, or that is broken (AA-4, AA-5, AR-5)."""
        if connection.state is State.OPEN:
            self._metrics.add("associations_aborted_total")
        self.transition(connection, Event.TRANSPORT_CLOSED, f"lost: {why}")

    def discard(self, connection: Connection) -> None:
        """Takes what still arrives in Sta13, and does not look at it (AA-6, AA-7)."""
        if not connection.socket.recv(65536):
            self.transition(connection, Event.TRANSPORT_CLOSED)


def guarded(upper: UpperLayer, step: Callable[[Connection], None], connection: Connection) -> None:
    """Runs a step for one connection; a fault of fastjmix in it ends that connection only."""
    try:
        step(connection)
    except Exception as problem:
        fail(upper, connection, problem)


def fail(upper: UpperLayer, connection: Connection, problem: Exception) -> None:
    """Ends a connection after a fault of fastjmix."""
    log.get().exception("connection_failed", peer=connection.peer, why=repr(problem))
    possible = TRANSITIONS[connection.state]
    with contextlib.suppress(OSError):
        if Event.ABORT in possible:
            upper.abort(connection, PROVIDER, 0, "a fault of fastjmix")
        elif Event.CLOSE in possible:
            upper.transition(connection, Event.CLOSE)
