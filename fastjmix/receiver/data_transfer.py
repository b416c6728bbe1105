"""Data transfer (Sta6): from the socket into the lane, and from the packer's status to a response.

Guaranteed: a full lane stops the reading of its socket only. A peer that does not read its
responses, or that has had its turn, waits; the others go on. messages.py says what each message
needs.

A method that returns a bool returns False when the association has ended: its caller is done.
"""

from __future__ import annotations

import time
from typing import Final

from fastjmix.dicom.association import RELEASE_RP
from fastjmix.ipc.metrics import Metrics
from fastjmix.receiver.connection import ANSWERS_A_TURN, Association, Connection
from fastjmix.receiver.measures import BETWEEN, DISK, INSIDE, PACKER, WORK
from fastjmix.receiver.messages import Messages, Need
from fastjmix.receiver.poller import Poller
from fastjmix.receiver.states import Event, State
from fastjmix.receiver.upper_layer import PROVIDER, UpperLayer

RECEIVE_BYTES: Final = 65536
"""Bytes of one recv(2): the packer takes them up while the next are copied. With 1 MB the hand-over
began only when the instance was complete: measured 1.31 against 1.06 times the C prototype."""

BURST: Final = 16
"""recv(2)s of one connection before its findings are handled: a megabyte."""

FINDINGS: Final = 4
"""Findings of one connection before the others are served: command, head and end of an instance,
and the next command."""

DATA, STATUS = Need.DATA, Need.STATUS  # Python 3.11 takes 0.3 µs to find an enum's member


class DataTransfer:
    """The data transfer of all associations of one receiver."""

    def __init__(
        self, upper_layer: UpperLayer, messages: Messages, poller: Poller, metrics: Metrics
    ) -> None:
        self._upper_layer = upper_layer
        self._messages = messages
        self._poller = poller
        self._metrics = metrics
        self._responses = metrics.histogram("response_seconds")
        self._busy: Connection | None = None

    def begin(self, connection: Connection, association: Association, rest: bytes) -> None:
        """Begins with the bytes that came behind the A-ASSOCIATE-RQ."""
        now = time.monotonic()
        self._await_peer(connection, now)
        scanner = association.scanner
        if rest:
            scanner.reserve(len(rest))[:] = rest
            scanner.commit(len(rest))
            if not self._advance(connection, association, scanner.scan()):
                return
        self._settle(connection, association, now)

    def receive(self, connection: Connection) -> None:
        """Takes what the socket has, piece by piece, so that the packer can begin."""
        association = connection.association
        assert association is not None
        if connection is not self._busy:
            if self._busy is not None and self._busy.state is State.OPEN:
                self._poller.note_company()
            self._busy = connection
        if connection not in self._upper_layer.awaiting_status:
            association.measures.wake(self._poller.now)
        scanner = association.scanner
        for _ in range(FINDINGS):
            found = scanner.receive(connection.socket.fileno(), RECEIVE_BYTES, BURST)
            if scanner.closed:
                self._upper_layer.lost(connection, "connection closed")
                return
            if not self._advance(connection, association, found):
                return
            if scanner.drained or scanner.blocked or connection.outgoing or association.answered:
                break
        now = time.monotonic()
        if connection not in self._upper_layer.awaiting_status:
            self._await_peer(connection, now)
        self._settle(connection, association, now)

    def flush(self, connection: Connection) -> None:
        """Sends what is left of the responses; when all are sent, the next messages follow."""
        upper = self._upper_layer
        if upper.flush(connection) and connection not in upper.paused:
            if connection not in upper.awaiting_status and connection.association is not None:
                connection.association.measures.wake(self._poller.now)
            self._go_on(connection)

    def grant(self, connection: Connection) -> None:
        """Sends the response for an instance to which its packer has given the status."""
        association = connection.association
        assert association is not None
        del self._upper_layer.awaiting_status[connection]
        now = time.monotonic()
        self._responses.observe(association.measures.wake(now))
        self._await_peer(connection, now)
        if not self._upper_layer.send(connection, self._messages.granted(association)):
            return
        if connection.outgoing:
            self._settle(connection, association, now)
        else:
            self._go_on(connection)

    def resume(self, connection: Connection) -> None:
        """Reads again: there is room in the lane, or it is the peer's next turn."""
        self._upper_layer.resume(connection)
        if connection not in self._upper_layer.awaiting_status:
            assert connection.association is not None
            now = time.monotonic()
            connection.association.measures.wake(now)
            self._await_peer(connection, now)
        if not connection.outgoing:
            self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """Looks further at what has arrived."""
        association = connection.association
        assert association is not None
        if self._advance(connection, association, association.scanner.scan()):
            self._settle(connection, association, time.monotonic())

    def _advance(self, connection: Connection, association: Association, found: int) -> bool:
        """Handles messages until one needs something that is not there, or ends the association."""
        while True:
            need = self._messages.advance(association, found)
            if need is DATA:
                return True
            if need is STATUS:
                self._upper_layer.await_status(connection, association)
                return True
            if isinstance(need, Event):
                self._end(connection, association, need)
                return False
            if not self._upper_layer.send(connection, association.response):
                return False
            if connection.outgoing or association.answered >= ANSWERS_A_TURN:
                return True
            found = association.scanner.scan()

    def _end(self, connection: Connection, association: Association, event: Event) -> None:
        """Ends an association for an event of the peer's."""
        if event is Event.RELEASE_RQ:
            if self._upper_layer.send(connection, RELEASE_RP):
                self._upper_layer.transition(connection, event, "released")
        elif event is Event.ABORT_RECEIVED:
            self._metrics.add("associations_aborted_total")
            self._upper_layer.transition(connection, event, "aborted by the peer")
        else:
            reason, why = association.violation
            self._upper_layer.abort(connection, PROVIDER, reason, why, event)

    def _settle(self, connection: Connection, association: Association, now: float) -> None:
        """Decides what an association waits for, after its messages were handled."""
        scanner = association.scanner
        cause = INSIDE
        if scanner.blocked or scanner.stalled or association.answered >= ANSWERS_A_TURN:
            cause = PACKER if scanner.blocked or scanner.stalled else WORK
            self._upper_layer.pause(connection, scanner)
        elif association.is_between_messages and not connection.outgoing:
            cause = BETWEEN
            connection.deadline = now + connection.limits.network_timeout_secs
            if self._upper_layer.draining:
                self._upper_layer.abort(connection, PROVIDER, 0, "shutting down")
        if connection in self._upper_layer.awaiting_status:
            cause = DISK
        association.measures.wait(cause, now)
        association.answered = 0

    def _await_peer(self, connection: Connection, now: float) -> None:
        connection.deadline = now + connection.limits.dimse_timeout_secs
