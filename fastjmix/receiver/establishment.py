"""Establishes associations: from an accepted connection to data transfer (Sta2, Sta3).

Guaranteed: a connection that cannot be watched costs only itself. A newcomer that finds
max_half_open connections takes the place of one of them, or is closed (half_open.py). A newcomer
that finds every place for an association taken displaces one that stores nothing, or is rejected
(displacement.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from fastjmix import log
from fastjmix._core import Lanes, PdvScanner
from fastjmix.ipc.channels import Channels
from fastjmix.receiver.associate import (
    AssociateRequests,
    Invalid,
    NoPlace,
    Opening,
    Rejection,
    log_accepted,
)
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.data_transfer import DataTransfer
from fastjmix.receiver.displacement import HOLD_SECS, to_displace
from fastjmix.receiver.listener import Listener
from fastjmix.receiver.states import Event
from fastjmix.receiver.upper_layer import PROVIDER, USER, UpperLayer, guarded
from fastjmix.spool import AssociationFacts
from fastjmix.transport import proxy_header


class Establishment:
    """The association establishment of all connections of one receiver."""

    def __init__(
        self,
        upper_layer: UpperLayer,
        requests: AssociateRequests,
        transfer: DataTransfer,
        lanes: Lanes,
        channels: Channels,
        rejects: Callable[[Listener], bool],
    ) -> None:
        """`rejects(listener)`: the intake there has ended, or pauses."""
        self._rejects = rejects
        self._upper_layer = upper_layer
        self._requests = requests
        self._transfer = transfer
        self._lanes = lanes
        self._channels = channels
        self._metrics = channels.metrics

    def connect(
        self, listener: Listener, accepted: socket.socket, address: tuple[str, int]
    ) -> None:
        """Takes an accepted connection to Sta2, or closes it."""
        try:
            if self._make_half_open_place(listener, address[0]):
                self._upper_layer.connect(listener, accepted, address)
            else:
                accepted.close()
        except OSError as problem:  # it is gone, or there is no memory to watch it
            log.get().warning("accept_failed", why=problem.strerror)
            accepted.close()

    def _make_half_open_place(self, listener: Listener, host: str) -> bool:
        """Returns False when max_half_open are reached, and the newcomer is to be closed."""
        half_open = self._upper_layer.half_open[listener.number]
        if not half_open.is_full:
            return True
        self._metrics.add("connections_turned_away_total")
        closed = half_open.to_close_for(host)
        if closed is not None:
            self._upper_layer.transition(closed, Event.CLOSE)
        return closed is not None

    def receive(self, connection: Connection) -> None:
        """Takes an A-ASSOCIATE-RQ, in as many pieces as the peer likes, and answers it."""
        upper = self._upper_layer
        data = connection.socket.recv(65536)
        if not data:
            upper.lost(connection, "closed before an A-ASSOCIATE-RQ")
            return
        if connection.awaits_header:
            data = self._take_header(connection, data)
            if not data:
                return
        draining = self._rejects(connection.listener)
        answer = self._requests.receive(connection, data, draining=draining)
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

    def _take_header(self, connection: Connection, data: bytes) -> bytes:
        """Takes the next bytes of a PROXY header. Returns what follows it, if anything has come."""
        buffer = connection.received
        buffer += data
        try:
            if proxy_header.missing(buffer):
                return b""
            header = proxy_header.parse(buffer)
        except proxy_header.InvalidHeader as problem:
            why = f"{problem}, which proxy_protocol_from wants from this address"
            self._upper_layer.abort(connection, PROVIDER, 1, why, Event.INVALID_PDU)
            return b""
        rest = bytes(buffer[header.length :])
        buffer.clear()
        connection.awaits_header = False
        connection.deadline = time.monotonic() + connection.limits.acse_timeout_secs
        if header.host is not None:
            half_open = self._upper_layer.half_open[connection.listener.number]
            half_open.readdress(connection, header.host)
            connection.peer = f"{header.host}:{header.port}"
        return rest

    def _displace_or_reject(self, connection: Connection, asked: NoPlace) -> Opening | Rejection:
        if self.displace(connection.host, asked.among):
            again = self._requests.place(connection, asked.accepted, asked.rules, asked.rest)
            if isinstance(again, Opening):
                return again
        return self._requests.reject(connection, asked)

    def displace(self, host: str | None, among: Callable[[Association], bool]) -> bool:
        """Ends an association that stores nothing, for a newcomer from `host`. Returns False when
        there is none.
        """
        upper = self._upper_layer
        found = to_displace(upper.connections.values(), time.monotonic(), among, host, upper.paused)
        if found is None:
            return False
        self._metrics.add("associations_displaced_total")
        why = f"stored nothing for {HOLD_SECS:.0f} s, and others wait"
        guarded(upper, lambda one: upper.abort(one, USER, 0, why), found)
        return True

    def _open(self, connection: Connection, opening: Opening) -> None:
        """Accepts an association (AE-7)."""
        accepted, listener = opening.accepted, connection.listener
        number = self._lanes.new_association()
        facts = AssociationFacts(
            self._channels.association_id(number),
            accepted.calling_ae,
            accepted.called_ae,
            connection.peer,
            accepted.peer_implementation_uid,
            accepted.peer_implementation,
            round(time.time(), 3),
        )
        calling_ae = accepted.calling_ae.encode()
        self._lanes.open(opening.lane, number, listener.number, calling_ae, facts.dump())
        scanner = PdvScanner(self._lanes, opening.lane, listener.config.max_pdu)
        connection.association = association = Association(
            number,
            connection.peer,
            listener.config,
            accepted,
            scanner,
            opening.rules,
            facts,
            listener.number,
        )
        self._upper_layer.transition(connection, Event.ACCEPT)
        self._metrics.add("associations_accepted_total")
        self._metrics.add("associations_open")
        log_accepted(association)
        if self._upper_layer.send(connection, accepted.pdu):
            self._transfer.begin(connection, association, opening.rest)
