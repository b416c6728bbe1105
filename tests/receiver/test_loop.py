"""Bounds of one turn of the receiver's loop, at limit - 1, limit and limit + 1: docs/limits.md.

A whole gateway takes its turns as fast as they come, so that one turn and two look the same from
outside. Here the real loop has real sockets, and takes one turn at a time.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fastjmix.dicom.dataset import TEMPLATES_KEPT, file_meta_prefix
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.ingest_rules import tabulate
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.metrics import Metrics, MetricsPage
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.receiver import listener
from fastjmix.receiver.connection import ANSWERS_A_TURN, Connection
from fastjmix.receiver.listener import ACCEPT_BURST
from fastjmix.receiver.loop import Receiver
from fastjmix.receiver.states import State
from tests.limits.test_http import log_lines
from tests.support import wire
from tests.support.gateway import Peer, until
from tests.support.nodes import to
from tests.uploader.test_process import whole_config

BACKLOG = 2 * ACCEPT_BURST


class Stepped:
    """A receiver with one listening socket, whose turns are taken by the test."""

    def __init__(self, root: Path) -> None:
        config = whole_config(root, to("http://127.0.0.1:9/"))
        config = replace(config, soft_reserve_bytes=0, hard_reserve_bytes=0)
        self.passage = Passage(1, 1 << 20, 2)
        self.descriptors = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(4)]
        *wake, stop, outbox_wake = self.descriptors
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]
        self.metrics: Metrics = MetricsPage(1).row(0)
        channels = Channels(stop, outbox_wake, {}, self.metrics)
        shared_lanes = SharedLanes(self.passage, wake, 1, 1)
        self.receiver = Receiver(
            config, tabulate(config), 0, shared_lanes, channels, [self.listening]
        )

    def accept(self) -> None:
        """Takes the listening socket's turn."""
        for accepted in self.receiver._listeners.accept(self.listening.fileno()):
            self.receiver._establishment.connect(*accepted)

    def serve(self, connection: Connection) -> None:
        """Takes that connection's turn only."""
        self.receiver._serve(connection, select.EPOLLIN)

    def collect(self) -> None:
        """Ends a turn: a connection that had to wait goes on in the next."""
        self.receiver._serve_granted()

    def is_paused(self, connection: Connection) -> bool:
        return connection in self.receiver._upper_layer.paused

    @property
    def connections(self) -> list[Connection]:
        return list(self.receiver._upper_layer.connections.values())

    @property
    def waiting_to_be_accepted(self) -> int:
        """The kernel's count: tcpi_unacked of a listening socket is its accept queue."""
        tcp_info = self.listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        return int(struct.unpack_from("<I", tcp_info, 24)[0])

    def close(self) -> None:
        for connection in self.connections:
            self.receiver._upper_layer.lost(connection, "the test is over")
        self.receiver._epoll.close()
        self.listening.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        del self.receiver
        self.passage.close()


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    one = Stepped(tmp_path)
    yield one
    one.close()


@contextmanager
def waiting_peers(one: Stepped, count: int) -> Iterator[list[Peer]]:
    """Yields so many peers that wait to be accepted."""
    peers = [Peer(one.port) for _ in range(count)]
    try:
        until(lambda: one.waiting_to_be_accepted == count, "all are in the accept queue")
        yield peers
    finally:
        for peer in peers:
            peer.socket.close()


def arrived(connection: Connection) -> int:
    """Bytes of the peer that lie in the kernel."""
    found = fcntl.ioctl(connection.socket.fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(found, "little")


# -- the listening socket --------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_connections_accepted_in_one_turn(stepped: Stepped, off: int) -> None:
    count = ACCEPT_BURST + off
    with waiting_peers(stepped, count):
        stepped.accept()
        assert len(stepped.connections) == min(count, ACCEPT_BURST)
        assert stepped.waiting_to_be_accepted == max(off, 0)
        stepped.accept()  # the next turn
        assert len(stepped.connections) == count


def test_every_connection_notices_a_machine_that_is_gone(stepped: Stepped) -> None:
    """Checks the socket options of an accepted connection."""
    with waiting_peers(stepped, 1):
        stepped.accept()
        (connection,) = stepped.connections
        tcp = [
            connection.socket.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_USER_TIMEOUT,
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
            )
        ]
        assert tcp == [
            listener.UNACKNOWLEDGED_MS,
            listener.KEEPALIVE_SECS,
            listener.KEEPALIVE_PROBE_SECS,
            listener.KEEPALIVE_PROBES,
        ]
        assert connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


# -- the association -------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_messages_answered_in_one_turn(stepped: Stepped, off: int) -> None:
    """The answers are counted where they are sent: what the peer has of them is the kernel's."""
    count = ANSWERS_A_TURN + off
    with waiting_peers(stepped, 1) as (peer,):
        stepped.accept()
        (connection,) = stepped.connections
        peer.send(wire.associate_rq(wire.context(3, wire.VERIFICATION, wire.IMPLICIT)))
        until(lambda: arrived(connection), "the request is here")
        stepped.serve(connection)
        assert peer.pdu()[0] == 2
        assert connection.state is State.OPEN
        echoes = [wire.p_data(wire.pdvs(3, wire.echo_rq(n), True)) for n in range(count)]
        sent = b"".join(echoes)
        peer.send(sent)
        until(lambda: arrived(connection) == len(sent), "all of them are here")
        stepped.serve(connection)
        assert stepped.metrics.total("echoes_total") == min(count, ANSWERS_A_TURN)
        assert stepped.is_paused(connection) == (off >= 0)  # it had its turn
        stepped.collect()
        assert stepped.metrics.total("echoes_total") == count
        assert not stepped.is_paused(connection)
        numbers = [struct.unpack("<H", peer.response()[0x0120])[0] for _ in echoes]
        assert numbers == list(range(count))


@pytest.mark.parametrize("field", [0x0FFF, 0x8001])
def test_messages_passed_over_in_one_turn(stepped: Stepped, field: int) -> None:
    """C-CANCEL-RQs, and responses to nothing, are not answered; they take turns all the same."""
    ignored = {0x0100: wire.us(field), 0x0120: wire.us(5), 0x0800: wire.us(wire.NO_DATA_SET)}
    with waiting_peers(stepped, 1) as (peer,):
        stepped.accept()
        (connection,) = stepped.connections
        peer.send(wire.associate_rq(wire.context(3, wire.VERIFICATION, wire.IMPLICIT)))
        until(lambda: arrived(connection), "the request is here")
        stepped.serve(connection)
        assert peer.pdu()[0] == 2
        messages = [wire.command(ignored)] * ANSWERS_A_TURN + [wire.echo_rq(7)]
        sent = b"".join(wire.p_data(wire.pdvs(3, one, True)) for one in messages)
        peer.send(sent)
        until(lambda: arrived(connection) == len(sent), "all of them are here")
        stepped.serve(connection)
        assert stepped.is_paused(connection)  # it had its turn
        assert stepped.metrics.total("echoes_total") == 0
        stepped.collect()
        assert peer.response()[0x0120] == wire.us(7)


@pytest.mark.fault("F13")
def test_nobody_can_connect_once_the_stop_began(stepped: Stepped) -> None:
    """Though another process, forked a moment ago, has yet to close the socket it inherited."""
    stepped.receiver._listeners.listen()
    with socket.socket(fileno=os.dup(stepped.listening.fileno())):
        stepped.receiver._listeners.close()
        with pytest.raises(ConnectionRefusedError):
            Peer(stepped.port)


@pytest.mark.fault("F13")
def test_a_listening_socket_that_another_receiver_ended(stepped: Stepped) -> None:
    """It stops before this one hears of the stop: no line in the log, and nothing spins."""
    stepped.receiver._listeners.listen()
    stepped.listening.shutdown(socket.SHUT_RDWR)
    ((descriptor, _),) = stepped.receiver._epoll.poll(5)
    with log_lines() as lines:
        assert list(stepped.receiver._listeners.accept(descriptor)) == []
    assert lines == []
    assert stepped.receiver._epoll.poll(0) == []


# -- what is remembered ----------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_templates_of_file_meta_information_that_are_kept(off: int) -> None:
    """The one that was not asked for longest goes; what others have asked for is older still."""
    count = TEMPLATES_KEPT + off
    kinds = [(wire.CT, wire.EXPLICIT, f"KIND {off} {n}", "JMIX") for n in range(count)]
    oldest = file_meta_prefix(*kinds[0])
    newest = [file_meta_prefix(*kind) for kind in kinds[1:]][-1]
    assert file_meta_prefix(*kinds[-1]) is newest
    assert (file_meta_prefix(*kinds[0]) is oldest) == (off <= 0)
