"""Row S33: one address takes every association, and does nothing with them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fastjmix.ipc.metrics import MetricsPage
from fastjmix.receiver import displacement
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.displacement import HOLD_SECS, FullRejections, to_displace
from fastjmix.receiver.states import State
from tests.support import wire
from tests.support.dicom_peers import CONGESTED, message
from tests.support.gateway import Gateway, Gateways, Peer, get, until

PLACES = 3
QUICK = "from fastjmix.receiver import displacement as d; d.HOLD_SECS = 1.0; d.MEASURED_SECS = 0.5"
ABORTED = (7, b"\0\0\0\0")
ECHO = wire.p_data(wire.pdvs(3, wire.echo_rq(), True))


class From(Peer):
    """A peer of another address of this machine."""

    def __init__(self, own: Gateway, host: str) -> None:
        self.socket = socket.create_connection(
            ("127.0.0.1", own.dicom_port), 20, source_address=(host, 0)
        )


@pytest.fixture
def gateway_defaults() -> dict[str, Any]:
    return {"endpoint": f"max_associations = {PLACES}", "first": QUICK}


# -- what keeps an association busy ----------------------------------------------------------------


def echoes(peer: Peer) -> None:
    peer.send(ECHO)
    assert peer.status() == 0


def refused_by_its_command(peer: Peer) -> None:
    peer.send(message(b"\0", instance="not a UID"))
    assert peer.status() != 0


def refused_by_its_data_set(peer: Peer) -> None:
    peer.send(message(b"\0" * 200))
    assert peer.status() != 0


def stores(peer: Peer) -> None:
    peer.store(wire.data_set())


def silence(peer: Peer) -> None:
    time.sleep(0.02)


def echoes_that_nobody_reads(peer: Peer) -> None:
    peer.socket.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        peer.send(ECHO * 1000)


def a_command_that_does_not_end(peer: Peer) -> None:
    """Sends a byte now and then."""
    at = getattr(peer, "at", 0)
    peer.send(ECHO[at : at + 1] if at < len(ECHO) - 1 else b"")
    peer.at = at + 1  # type: ignore[attr-defined]
    time.sleep(0.02)


def one_store_and_then_nothing(peer: Peer) -> None:
    if not getattr(peer, "stored", False):
        assert peer.store(wire.data_set()) == 0
        peer.stored = True  # type: ignore[attr-defined]
    echoes(peer)


BUSY = [
    echoes, refused_by_its_command, refused_by_its_data_set, silence, echoes_that_nobody_reads,
    a_command_that_does_not_end, one_store_and_then_nothing,
]  # fmt: skip


@contextlib.contextmanager
def busy(peers: list[Peer], how: Callable[[Peer], None]) -> Iterator[None]:
    """Keeps each of them busy, until it is ended or this is over."""
    over = threading.Event()

    def go_on(peer: Peer) -> None:
        with contextlib.suppress(OSError, EOFError, AssertionError):
            while not over.is_set():
                how(peer)

    threads = [threading.Thread(target=go_on, args=(peer,)) for peer in peers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)
        for peer in peers:
            peer.socket.close()


def holding(own: Gateway, host: str, count: int = PLACES) -> list[Peer]:
    peers = [From(own, host) for _ in range(count)]
    assert [peer.associate()[0] for peer in peers] == [2] * count
    return list(peers)


def asks(own: Gateway, host: str, **options: Any) -> bool:
    """Asks to be let in. If it is, it stores something, as the others want to."""
    with From(own, host) as peer:
        kind, body = peer.associate(**options)
        if kind == 3:
            assert body == CONGESTED
            return False
        assert peer.store(wire.data_set()) == 0
        peer.release()
        return True


def displaced(own: Gateway) -> int:
    return sum("and others wait" in line for line in own.lines)


# -- a gateway -------------------------------------------------------------------------------------


@pytest.mark.fault("S33")
@pytest.mark.parametrize("how", BUSY)
@pytest.mark.parametrize("newcomer", ["127.0.0.2", "127.0.0.1"])
def test_an_association_that_stores_nothing_gives_way_to_another_peer(
    start: Gateways, how: Callable[[Peer], None], newcomer: str
) -> None:
    """One of another address gives way, or (behind NAT) of the same. One ends, not all."""
    own = start()
    with busy(holding(own, "127.0.0.1"), how):
        until(lambda: asks(own, newcomer), "the newcomer has a place")
        own.wait_for("and others wait")
    assert displaced(own) == 1
    own.wait_for("http_listening")
    metrics = get(f"{own.http}/metrics")[2].decode()
    assert "fastjmix_associations_displaced_total 1.0" in metrics


@pytest.mark.fault("S33")
def test_a_displaced_association_is_aborted_and_keeps_its_place_until_then(start: Gateways) -> None:
    own = start()
    first, second, third = holding(own, "127.0.0.1")
    assert not asks(own, "127.0.0.2")  # nobody has held a place for long
    with busy([second, third], stores):
        until(lambda: asks(own, "127.0.0.2"), "there is a place")
        assert first.pdu() == ABORTED
        assert first.closed()
        first.socket.close()
        assert asks(own, "127.0.0.2")  # that place is free
        assert displaced(own) == 1


@pytest.mark.fault("S33")
def test_nothing_changes_while_there_are_places(start: Gateways) -> None:
    own = start()
    peers = holding(own, "127.0.0.1", PLACES - 1)
    begun = time.monotonic()
    with busy(peers, echoes):
        while time.monotonic() < begun + 3.0:  # three times as long as it needs
            assert asks(own, "127.0.0.2")
    assert displaced(own) == 0


@pytest.mark.fault("S33")
def test_an_address_that_stores_on_all_places_keeps_them(start: Gateways) -> None:
    own = start()
    begun = time.monotonic()
    with busy(holding(own, "127.0.0.1"), stores):
        while time.monotonic() < begun + 3.0:
            assert not asks(own, "127.0.0.2")
    assert displaced(own) == 0


@pytest.mark.fault("S33")
def test_an_address_with_as_many_places_gets_no_more(start: Gateways) -> None:
    own = start(endpoint="max_associations = 4")
    storing, idle = holding(own, "127.0.0.2", 2), holding(own, "127.0.0.1", 2)
    begun = time.monotonic()
    with busy(storing, stores), busy(idle, echoes):
        while time.monotonic() < begun + 2.5:
            assert not asks(own, "127.0.0.2")  # it has two, and the idle ones are two
        assert displaced(own) == 0
        assert asks(own, "127.0.0.3")


@pytest.mark.fault("S33")
@pytest.mark.parametrize("alone", [True, False])
def test_data_sets_that_drip_give_way_where_an_address_has_several(
    start: Gateways, alone: bool
) -> None:
    """Above min_bytes_per_sec, for ever: one of its kind may be a slow line, three are not."""
    own = start()
    data = wire.data_set(pixels=bytes(40 << 20))
    whole = message(data, size=4000)

    def drips(peer: Peer) -> None:
        at = getattr(peer, "at", 0)
        peer.send(whole[at : at + 400])
        peer.at = at + 400  # type: ignore[attr-defined]
        time.sleep(0.05)  # 8 KB/s

    hosts = [f"127.0.0.{n + 1}" if alone else "127.0.0.1" for n in range(PLACES)]
    peers = [peer for host in hosts for peer in holding(own, host, 1)]
    begun = time.monotonic()
    with busy(peers, drips):
        if alone:
            while time.monotonic() < begun + 3.0:
                assert not asks(own, "127.0.0.9")
        else:
            until(lambda: asks(own, "127.0.0.9"), "there is a place")
    assert displaced(own) == (0 if alone else 1)


@pytest.mark.fault("S33")
def test_a_data_set_that_comes_fast_enough_is_left_alone(start: Gateways) -> None:
    own = start()
    whole = message(wire.data_set(pixels=bytes(40 << 20)), size=4000)

    def flows(peer: Peer) -> None:
        at = getattr(peer, "at", 0)
        peer.send(whole[at : at + 4000])
        peer.at = at + 4000  # type: ignore[attr-defined]
        time.sleep(0.05)  # 80 KB/s

    begun = time.monotonic()
    with busy(holding(own, "127.0.0.1"), flows):
        while time.monotonic() < begun + 3.0:
            assert not asks(own, "127.0.0.2")
    assert displaced(own) == 0


@pytest.mark.fault("S33")
def test_an_association_that_waits_for_its_status_is_not_displaced(start: Gateways) -> None:
    """The packer stands still: the peers wait for us."""
    own = start()
    packer = own.children()["packer-0"]
    peers = holding(own, "127.0.0.1")
    os.kill(packer, signal.SIGSTOP)
    begun = time.monotonic()
    for number, peer in enumerate(peers):
        peer.send(message(wire.data_set(f"1.2.3.{number}"), f"1.2.3.{number}"))
    while time.monotonic() < begun + 3.0:
        assert not asks(own, "127.0.0.2")
    os.kill(packer, signal.SIGCONT)
    assert [peer.status() for peer in peers] == [0] * PLACES
    for peer in peers:
        peer.socket.close()
    assert displaced(own) == 0


@pytest.mark.fault("S33")
def test_places_of_a_calling_ae_title(start: Gateways) -> None:
    """Only an association of the same title makes place, where the title's own limit is reached."""
    own = start(
        endpoint="max_associations = 9\n[endpoints.dicom_receiver.options.aet_table]\n"
        "CT = { max_associations = 1 }\nMR = { }\n"
    )
    other, held = From(own, "127.0.0.1"), From(own, "127.0.0.1")
    assert [other.associate(calling=b"MR")[0], held.associate(calling=b"CT")[0]] == [2, 2]
    with busy([other, held], echoes):
        assert not asks(own, "127.0.0.1", calling=b"CT")
        until(lambda: asks(own, "127.0.0.1", calling=b"CT"), "there is a place")
        own.wait_for("calling_ae=CT .*and others wait")
    assert displaced(own) == 1


@pytest.mark.fault("S33")
def test_another_receivers_associations_give_way(start: Gateways) -> None:
    """The newcomer is rejected by a receiver that holds none of them."""
    own = start(fastjmix="receivers = 2")
    until(lambda: "receiver-1" in own.children(), "both are there")
    first, second = (own.children()[f"receiver-{n}"] for n in range(2))
    os.kill(second, signal.SIGSTOP)
    with busy(holding(own, "127.0.0.1"), echoes):
        own.wait_for("receiver-0 association_accepted", PLACES)
        os.kill(second, signal.SIGCONT)
        until(lambda: asks(own, "127.0.0.2"), "there is a place")
        own.wait_for("receiver-0 association_ended .*and others wait")
    assert own.children()["receiver-0"] == first


# -- the choice ------------------------------------------------------------------------------------


def an_association(host: str, stored_at: float, listener: Any = None) -> Connection:
    unused: Any = None
    association = Association(1, f"{host}:1", listener, unused, unused, stored_at=stored_at)
    return Connection(unused, host, f"{host}:1", unused, unused, 0.0, State.OPEN, association)


def anyone(_: Association) -> bool:
    return True


@pytest.mark.fault("S33")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_seconds_without_a_store(off: int) -> None:
    one = an_association("a", 0.0)
    assert (to_displace([one], HOLD_SECS + off, anyone, "b") is one) == (off >= 0)


@pytest.mark.fault("S33")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_associations_of_the_newcomers_address(off: int) -> None:
    """It must have fewer than the address that gives way; or it is that address."""
    held = [an_association("a", 0.0) for _ in range(3)]
    own = [an_association("b", 1000.0) for _ in range(3 + off)]
    assert (to_displace([*held, *own], 1000.0, anyone, "b") is not None) == (off < 0)
    assert to_displace([*held, *own], 1000.0, anyone, "a") is not None
    assert to_displace(held[:1], 1000.0, anyone, None) is None
    assert to_displace(held[:2], 1000.0, anyone, None) is not None


@pytest.mark.fault("S33")
def test_the_one_without_a_store_for_longest_of_the_address_with_most() -> None:
    few = [an_association("a", 1.0)]
    other: Any = 2
    many = [an_association("b", at, on) for at, on in ((9.0, 1), (5.0, other), (7.0, 1))]
    assert to_displace([*few, *many], 1000.0, anyone, "c") is many[1]
    assert to_displace([*few, *many], 1000.0, lambda one: one.listener != other, "c") is many[2]
    assert to_displace([*few, *many], 1000.0, lambda one: False, "c") is None
    many[0].state = State.CLOSING
    assert to_displace([many[0]], 1000.0, anyone, "c") is None


@pytest.mark.fault("S33")
def test_rejections_of_other_receivers_are_seen_once() -> None:
    page = MetricsPage(2)
    mine, theirs = (FullRejections(page.row(n)) for n in range(2))
    assert not mine.others_rejected()
    mine.add()
    assert not mine.others_rejected()
    theirs.add()
    theirs.add()
    assert mine.others_rejected()
    assert not mine.others_rejected()
    assert theirs.others_rejected()
    assert page.total(displacement.REJECTED) == 3
