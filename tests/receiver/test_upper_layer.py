"""The receiver's connections by themselves: real sockets, no lanes, no messages."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from fastjmix.config import PeerLimits
from fastjmix.ipc.events import Events
from fastjmix.ipc.ingest_rules import ListenerRules
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.receiver import upper_layer
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.half_open import HalfOpen
from fastjmix.receiver.listener import Listener
from fastjmix.receiver.peer_log import PeerLog
from fastjmix.receiver.reports import Reports
from fastjmix.receiver.states import Event, State
from fastjmix.receiver.upper_layer import PROVIDER, UpperLayer, fail

LIMITS = PeerLimits(30, 60, 300, 1000, 512)
A_ABORT = b"\7\0\0\0\0\4\0\0\2\0"


class Pool:
    """Stands for the lane pool: notes the scanners whose lanes are given back."""

    def __init__(self) -> None:
        self.retired: list[object] = []

    def retire(self, scanner: object) -> None:
        self.retired.append(scanner)


class Side:
    """An upper layer, and its peers."""

    def __init__(self) -> None:
        part: Any = SimpleNamespace(limits=LIMITS, proxies=(), endpoint="dicom_receiver")
        rules = ListenerRules(part, 0, 0, {})
        pool: Any = Pool()
        self.pool: Pool = pool
        self.epoll = select.epoll()
        self.metrics = MetricsPage(1).row(0)
        self.layer = UpperLayer(
            [rules], self.epoll, self.metrics, pool, PeerLog(), Reports(Events())
        )
        self._listening = socket.create_server(("127.0.0.1", 0))
        unused: Any = None
        self._listener = Listener(self._listening, rules, unused)
        self._peers: list[socket.socket] = []

    def connect(self) -> tuple[Connection, socket.socket]:
        peer = socket.create_connection(self._listening.getsockname(), 20)
        self._peers.append(peer)
        self.layer.connect(self._listener, *self._listening.accept())
        return list(self.layer.connections.values())[-1], peer

    def open(self) -> tuple[Connection, socket.socket]:
        """A connection with an association."""
        connection, peer = self.connect()
        accepted: Any = SimpleNamespace(calling_ae="CT1", called_ae="OURS")
        scanner: Any = SimpleNamespace(request_space=lambda: None, largest_pdu=0)
        listener: Any = SimpleNamespace(ack="stored", max_pdu=131072)
        connection.association = Association(1, connection.peer, listener, accepted, scanner)
        self.layer.transition(connection, Event.ASSOCIATE_RQ)
        self.layer.transition(connection, Event.ACCEPT)
        self.metrics.add("associations_open")
        return connection, peer

    def close(self) -> None:
        opened = [one.socket for one in self.layer.connections.values()]
        for one in (*opened, *self._peers, self._listening):
            one.close()
        self.epoll.close()


@pytest.fixture
def side() -> Iterator[Side]:
    one = Side()
    yield one
    one.close()


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def test_an_abort_is_sent_and_the_peer_closes(side: Side) -> None:
    connection, peer = side.open()
    scanner = connection.association.scanner if connection.association else None
    side.layer.abort(connection, PROVIDER, 0, "a reason")
    assert (connection.state, connection.association) == (State.CLOSING, None)
    assert side.pool.retired == [scanner]
    assert peer.recv(99) == A_ABORT
    assert peer.recv(99) == b""
    peer.close()
    select.select([connection.socket], [], [], 20)
    side.layer.discard(connection)
    assert connection.state is State.CLOSED
    assert side.layer.connections == {}
    assert side.metrics.total("associations_aborted_total") == 1
    assert side.metrics.total("associations_open") == 0


def test_a_connection_that_is_lost_while_something_is_sent(side: Side) -> None:
    connection, peer = side.open()
    side.layer.await_status(connection, connection.association)  # type: ignore[arg-type]
    reset(peer)
    select.select([connection.socket], [], [], 20)
    assert not side.layer.send(connection, b"a response")
    assert connection.state is State.CLOSED
    assert side.layer.connections == {}
    assert side.layer.awaiting_status == {}
    assert len(side.pool.retired) == 1
    assert side.metrics.total("associations_aborted_total") == 1


def test_a_peer_that_reads_nothing_gets_the_rest_later(side: Side) -> None:
    connection, peer = side.open()
    data = bytes(64 << 20)
    assert side.layer.send(connection, data)
    assert connection.outgoing
    assert side.layer.send(connection, b"the end")
    received = 0
    while received < len(data) + 7:
        received += len(peer.recv(1 << 20))
        if connection.outgoing and (connection.socket.fileno(), select.EPOLLOUT) in side.epoll.poll(
            0
        ):
            side.layer.flush(connection)
    assert not connection.outgoing


def test_what_is_paused_is_not_read_until_the_association_ends(side: Side) -> None:
    connection, peer = side.open()
    assert connection.association is not None
    side.layer.pause(connection, connection.association.scanner)
    peer.sendall(b"more")
    assert side.epoll.poll(0.05) == []
    side.layer.resume(connection)
    assert side.epoll.poll(5) == [(connection.socket.fileno(), select.EPOLLIN)]
    side.layer.pause(connection, connection.association.scanner)
    side.layer.abort(connection, PROVIDER, 0, "a reason")
    assert side.layer.paused == {}
    assert side.epoll.poll(5) == [(connection.socket.fileno(), select.EPOLLIN)]
    side.layer.discard(connection)
    assert connection.state is State.CLOSING


def test_a_rejected_peer_is_closed_at_once_while_draining(side: Side) -> None:
    connection, peer = side.connect()
    side.layer.transition(connection, Event.ASSOCIATE_RQ)
    side.layer.draining = True
    side.layer.send_last(connection, Event.REJECT, b"the last PDU")
    assert connection.state is State.CLOSED
    assert peer.recv(99) == b"the last PDU"
    assert peer.recv(99) == b""


def test_the_one_that_has_waited_longest_for_its_close_is_closed(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upper_layer, "CLOSING_MAX", 2)
    connections = [side.open()[0] for _ in range(4)]
    seen = []
    for connection in side.layer.each():
        seen.append(connection)
        side.layer.abort(connection, PROVIDER, 0, "a reason")
    assert seen == connections
    closed, closing = [State.CLOSED] * 2, [State.CLOSING] * 2
    assert [one.state for one in connections] == closed + closing


def test_a_connection_that_another_closed_before_its_turn_is_passed_over(side: Side) -> None:
    first, second = side.connect()[0], side.connect()[0]
    seen = []
    for connection in side.layer.each():
        seen.append(connection)
        side.layer.transition(second, Event.CLOSE)
    assert seen == [first]


def test_an_event_that_cannot_occur_is_a_fault(side: Side) -> None:
    connection, _ = side.connect()
    with pytest.raises(KeyError):
        side.layer.transition(connection, Event.RELEASE_RQ)
    assert connection.state is State.AWAITING_RQ
    for state in (State.CLOSING, State.CLOSED, State.CLOSED):
        fail(side.layer, connection, RuntimeError("a fault"))
        assert connection.state is state


# -- half-open connections -------------------------------------------------------------------------


def test_a_newcomer_takes_the_oldest_place_of_the_address_with_most() -> None:
    unused: Any = None
    half_open = HalfOpen(3)
    for host in ("a", "b", "b"):
        assert not half_open.is_full
        half_open.add(Connection(unused, host, host, unused, LIMITS, 0.0))
    assert half_open.is_full
    found = half_open.to_close_for("c")
    assert found is not None
    assert found.host == "b"
    assert half_open.to_close_for("a") is None  # it would have as many
    assert half_open.to_close_for("b") is None
    half_open.remove(found)
    assert not half_open.is_full
    assert half_open.to_close_for("c") is None  # none has more than the newcomer would
