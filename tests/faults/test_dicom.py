"""Rows F45 to F70 of the fault matrix: what DICOM peers do, and what it must not do to others.

Some of these rows stand where their subject is tested: see docs/faults.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash

from tests.e2e.test_gateway import study_files
from tests.support import wire
from tests.support.dicom_peers import (
    CONGESTED,
    FIRST_CROWD_KB,
    PROVIDER_6,
    SPARE_KB,
    Caller,
    archives,
    at_rest,
    back_to,
    connections_to,
    goes_away_with_a_reset,
    in_use,
    lanes_kb,
    message,
    new_uid,
    open_sockets,
    status_field,
    stored,
    together,
    works,
)
from tests.support.gateway import Gateway, Gateways, Peer, get, images, members, running, until
from tests.support.hazards import delete_whole
from tests.support.nightly import by_form

SMALL_LANES = "lane_bytes = 1048576"
SOON_IDLE = "from fastjmix.receiver import lane_pool; lane_pool.IDLE_SECS = 0.5"
"""A lane's memory is given back when it was idle for ten seconds: half a second here."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With the defaults, for rows that need nothing else; each test has studies of its own."""
    at = tmp_path_factory.mktemp("gateway")
    with running(Gateway(at, 9, builder="release_grace_secs = 0.1")) as process:
        yield process


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """With little patience."""
    limits = """
acse_timeout_secs = 1
dimse_timeout_secs = 1
network_timeout_secs = 2
min_bytes_per_sec = 1000
"""
    at = tmp_path_factory.mktemp("strict")
    with running(Gateway(at, 9, endpoint=limits, fastjmix=SMALL_LANES)) as process:
        yield process


@pytest.fixture
def peer(gateway: Gateway) -> Iterator[Peer]:
    with Peer(gateway.dicom_port) as one:
        one.associate()
        yield one


def study_for(packer: int, packers: int = 2) -> str:
    """A Study Instance UID that is the business of this packer."""
    while True:
        study = new_uid()
        if xxhash.xxh3_64_intdigest(study.encode()) % packers == packer:
            return study


# -- F45 to F47: slow and silent -------------------------------------------------------------------


@pytest.mark.fault("F45")
def test_a_full_lane_is_back_pressure_and_a_late_success(start: Gateways) -> None:
    """The packer stands still for longer than dimse_timeout_secs: that is not the peer's fault.

    The row's A700 after a wait is an A-ABORT here (after GRANT_SECS): what was not taken would
    have to be read to its end to keep in step, and a peer resends after either.
    """
    own = start(
        fastjmix=f"{SMALL_LANES}\npackers = 2",
        endpoint="dimse_timeout_secs = 1",
        builder="release_grace_secs = 0.1",
    )
    halted, other = study_for(0), study_for(1)
    data = wire.data_set(study=halted, pixels=os.urandom(24 << 20))
    with Peer(own.dicom_port) as slow, Peer(own.dicom_port) as quick:
        slow.associate(calling=b"SLOW")
        quick.associate(calling=b"QUICK")
        before = in_use(own)["receiver-0"].private_kb
        os.kill(own.children()["packer-0"], signal.SIGSTOP)
        sender = threading.Thread(target=slow.send, args=(message(data),))
        sender.start()
        began, count = time.monotonic(), 0
        while count < 20 or time.monotonic() - began < 2.5:
            instance = f"1.2.3.{count}"
            assert quick.store(wire.data_set(instance, study=other), instance) == 0
            count += 1
        assert sender.is_alive()  # TCP takes a part of 24 MB, and the lane 1 MB
        assert in_use(own)["receiver-0"].private_kb < before + 2048
        os.kill(own.children()["packer-0"], signal.SIGCONT)
        sender.join()
        assert slow.status() == 0
        slow.release()
        quick.release()
    assert stored(own, halted) == {"1.2.3.9": data}
    assert len(stored(own, other)) == count


@pytest.mark.fault("F45")
def test_a_reset_while_the_lane_is_full_costs_no_processor(start: Gateways) -> None:
    own = start(fastjmix=SMALL_LANES)
    works(own)
    packer, receiver = own.children()["packer-0"], own.children()["receiver-0"]
    os.kill(packer, signal.SIGSTOP)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        peer.socket.settimeout(1.0)
        with pytest.raises(TimeoutError):
            peer.send(message(wire.data_set(pixels=os.urandom(24 << 20))))
        goes_away_with_a_reset(peer)
    own.wait_for('association_ended .*how="lost: connection reset')
    before = processor_time(receiver)
    time.sleep(1.0)  # what is measured is that nothing happens
    assert processor_time(receiver) - before < 0.2
    os.kill(packer, signal.SIGCONT)
    works(own)


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


TRICKLE = 0.1
"""Seconds between the bytes of a peer that trickles."""


async def trickle(caller: Caller, data: bytes, step: int = 1) -> None:
    """Sends `step` bytes at a time, until the other side has had enough."""
    with contextlib.suppress(OSError):
        for at in range(0, len(data), step):
            await caller.send(data[at : at + step])
            await asyncio.sleep(TRICKLE)


async def how_it_ends(caller: Caller) -> bytes:
    """Returns what comes until the other side closes."""
    came = b""
    with contextlib.suppress(ConnectionError):
        while part := await caller.reader.read(4096):
            came += part
    return came


FRAGMENT = wire.p_data(wire.pdvs(1, wire.echo_rq(), True, [20])[:1])
SLOW = {
    # name: (associated, what is sent, byte by byte?, seconds it may take, answer at the end)
    "says nothing": (False, b"", False, 1, b""),
    "half a header": (False, b"\1\0\0", False, 1, b""),
    "a request that trickles": (False, wire.associate_rq(), True, 1, b""),
    "half the header of a PDU": (True, b"\4\0\0", False, 1, wire.pdu(7, b"\0\0\0\0")),
    "half a command": (True, message(b"")[:60], False, 1, wire.pdu(7, b"\0\0\0\0")),
    "a fragment of a command": (True, FRAGMENT, False, 1, wire.pdu(7, b"\0\0\0\0")),
    "half a data set": (True, message(b"x" * 5000)[:2000], False, 1, wire.pdu(7, b"\0\0\0\0")),
    "a data set that trickles": (True, message(b"x" * 5000), True, 1, wire.pdu(7, b"\0\0\0\0")),
    "nothing between messages": (True, b"", False, 2, wire.pdu(7, b"\0\0\0\0")),
}


@pytest.mark.fault("F46")
def test_slow_and_silent_peers_are_ended(strict: Gateway) -> None:
    """Each for its own reason, at its own limit, and not before.

    A-ABORT comes with source 0 (service user) where the row has 2: PS3.8 knows no timer but ARTIM,
    so that the others are the acceptor's own decision (PS3.8 Table 9-26).
    """

    async def one(name: str) -> None:
        associated, data, drip, limit, expected = SLOW[name]
        caller = await Caller.connect(strict.dicom_port)
        if associated:
            assert (await caller.associate())[0] == 2
        began = time.monotonic()
        sending = asyncio.ensure_future(trickle(caller, data, 1 if drip else 1 << 20))
        answer = await how_it_ends(caller)
        took = time.monotonic() - began
        sending.cancel()
        caller.close()
        assert answer == expected, name
        assert took >= limit - 0.55, (name, took)  # a pace is measured from tick to tick

    async def steady() -> None:
        """Slow, yet faster than min_bytes_per_sec for several times dimse_timeout_secs."""
        caller = await Caller.connect(strict.dicom_port)
        await caller.associate()
        data = message(wire.data_set(pixels=os.urandom(12_000)))
        await trickle(caller, data, 300)
        kind, body = await caller.pdu()
        assert kind == 4
        assert wire.parse_command(body[6:])[0x0900] == wire.us(0)
        caller.close()

    together(*map(one, SLOW), steady())
    # At these limits silence is both, whichever is looked at first.
    strict.wait_for('how="aborted: (stalled inside a message|slower than min_bytes_per_sec)"', 5)
    strict.wait_for('how="aborted: idle"')
    works(strict)


@pytest.mark.fault("F46")
@pytest.mark.timeout(by_form(300, 900))
def test_two_hundred_slow_peers_beside_four_honest_ones(start: Gateways, tmp_path: Path) -> None:
    """The honest ones keep 80 % of their rate (in the short form, on a busy machine, 30 %)."""
    own = start(
        fastjmix=SMALL_LANES,
        endpoint="max_associations = 210\nmin_bytes_per_sec = 0",
        builder="release_grace_secs = 0.1",
        first=SOON_IDLE,
    )
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        study_files(folder, by_form(40, 400), rows=2048)

    def honest() -> float:
        began = time.monotonic()
        senders = [
            subprocess.Popen(
                ["storescu", "+sd", "-aec", "JMIX_RECEIVER", "127.0.0.1", str(own.dicom_port), f],
                stderr=subprocess.PIPE,
            )
            for f in map(str, folders)
        ]
        reported = [sender.communicate(timeout=60)[1] for sender in senders]
        assert [sender.returncode for sender in senders] == [0] * 4, reported
        return time.monotonic() - began

    async def slow(ready: threading.Barrier, done: threading.Event) -> None:
        callers = [await Caller.connect(own.dicom_port) for _ in range(200)]
        for number, caller in enumerate(callers):
            assert (await caller.associate(calling=b"SLOW"))[0] == 2
            await caller.send(message(b"x" * 5000)[: 100 + number])
        ready.wait()
        while not done.is_set():
            for caller in callers:
                await caller.send(b"x")
            await asyncio.sleep(1.0)
        for caller in callers:
            caller.close()

    quiet = honest()
    base = at_rest(own)
    ready, done = threading.Barrier(2), threading.Event()
    crowd = threading.Thread(target=lambda: asyncio.run(slow(ready, done)))
    crowd.start()
    ready.wait(90)
    loud = honest()
    done.set()
    crowd.join()
    print(f"\nfour honest senders beside 200 slow ones: {quiet / loud:.0%} of their rate")
    assert quiet / loud >= by_form(0.3, 0.8)
    at_rest(own)
    back_to(own, base, 0)


def vanish(peer: Peer) -> None:
    """The peer's TCP is gone without FIN or RST, as after a power failure; root only."""
    TCP_REPAIR = 19
    try:
        peer.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except PermissionError:
        print("without CAP_NET_ADMIN the peer stays, and is silent")
        return
    peer.socket.close()


@pytest.mark.fault("F47")
def test_a_peer_that_vanishes_is_noticed(strict: Gateway) -> None:
    """By keepalive after 60 s of silence (see the next test), or sooner by its own limit."""
    with Peer(strict.dicom_port) as works_first:
        works_first.associate()
        works_first.release()
    until(lambda: open_sockets(strict) == 0, "nobody is connected")
    base = in_use(strict)["receiver-0"].descriptors
    peer = Peer(strict.dicom_port)
    peer.associate(calling=b"VANISHES")
    assert in_use(strict)["receiver-0"].descriptors == base + 1
    vanish(peer)
    strict.wait_for("association_ended .*calling_ae=VANISHES .*aborted: idle")
    until(lambda: in_use(strict)["receiver-0"].descriptors == base, "the descriptor is closed")
    peer.socket.close()
    works(strict)


@pytest.mark.fault("F47")
def test_every_connection_is_watched_by_keepalive(gateway: Gateway) -> None:
    """The kernel's timer 2 (keepalive) of the server's end, due in 30 s: not in two hours."""
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        mine = f":{peer.socket.getsockname()[1]:04X}"

        def timer() -> str:
            (fields,) = [f for f in connections_to(gateway.dicom_port) if f[2].endswith(mine)]
            return fields[5]

        kind, due = until(
            lambda: (t := timer()).startswith("02") and t, "the keepalive timer runs"
        ).split(":")
        assert (kind, int(due, 16) <= 30 * os.sysconf("SC_CLK_TCK")) == ("02", True)


# -- F48 to F50: associations that end in odd ways -------------------------------------------------


@pytest.mark.fault("F48")
@pytest.mark.parametrize("way", ["A-ABORT", "FIN", "RST", "A-RELEASE-RQ"])
def test_the_end_inside_a_data_set(gateway: Gateway, way: str) -> None:
    """Acknowledged instances are kept; of the one that was arriving nothing is."""
    study = new_uid()
    data = wire.data_set(study=study)
    late = wire.data_set("1.2.3.77", study=study, pixels=b"x" * 60000)
    items = wire.pdvs(1, wire.store_rq("1.2.3.77"), True)
    items += wire.pdvs(1, late, False, [16000] * 10)[:-1]  # without the one flagged as last
    with Peer(gateway.dicom_port) as peer:
        peer.associate(calling=way.encode())
        assert peer.store(data) == 0
        peer.send(wire.p_data(items))
        if way == "RST":
            goes_away_with_a_reset(peer)
        elif way == "FIN":
            peer.socket.close()
        elif way == "A-ABORT":
            peer.send(wire.ABORT)
            assert peer.closed()
        else:
            peer.send(wire.RELEASE_RQ)
            assert peer.pdu() == (7, b"\0\0\2\2")
    assert stored(gateway, study) == {"1.2.3.9": data}
    works(gateway)


@pytest.mark.fault("F49")
def test_an_association_without_an_instance_leaves_nothing(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0")
    with Peer(own.dicom_port) as idle, Peer(own.dicom_port) as short:
        idle.associate()
        short.associate()
        short.release()
        works(own)  # one envelope, of this one
        idle.release()
    own.wait_sealed()
    assert own.stop() == 0
    assert len(own.envelopes("outbox")) == 1
    assert not list((own.spool / "building").iterdir())


# -- F51, F52: the same instance again -------------------------------------------------------------


@pytest.mark.fault("F51")
def test_the_same_instance_after_a_seal_and_a_restart_is_sent_again(start: Gateways) -> None:
    """Within an open envelope it is kept once (the next test of this row). After that it is a new
    envelope: a person who sends a study again wants it to arrive, and the upstream may have lost
    it. The row's window of de-duplication that survives a restart would be a promise to withhold.
    """
    own = start(builder="release_grace_secs = 0")
    study = new_uid()
    data = wire.data_set(study=study)
    for number in (1, 2):
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(data) == 0
            peer.release()
        assert stored(own, study, number) == {"1.2.3.9": data}
    assert own.stop() == 0
    again = start(builder="release_grace_secs = 0")
    with Peer(again.dicom_port) as peer:
        peer.associate()
        assert peer.store(data) == 0
        peer.release()
    assert stored(again, study, 3) == {"1.2.3.9": data}


@pytest.mark.fault("F51")
def test_the_same_instance_in_an_open_envelope_is_kept_once(gateway: Gateway) -> None:
    study = new_uid()
    data = wire.data_set(study=study)
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        assert [peer.store(data), peer.store(data)] == [0, 0]
        with Peer(gateway.dicom_port) as other:  # another AE title: other File Meta, same data set
            other.associate(calling=b"OTHER")
            assert other.store(data) == 0
            other.release()
        peer.release()
    assert stored(gateway, study) == {"1.2.3.9": data}
    (archive,) = archives(gateway, study)
    assert len([name for name in members(archive) if name.endswith(".dcm")]) == 1


@pytest.mark.fault("F52")
@pytest.mark.parametrize("peers", [2, 5, 20])
def test_the_same_instance_on_many_associations_at_once(gateway: Gateway, peers: int) -> None:
    for _ in range(by_form(3, 330)):
        study = new_uid()
        data = wire.data_set(study=study, pixels=os.urandom(50_000))

        async def race(study: str = study, data: bytes = data) -> None:
            callers = [await Caller.connect(gateway.dicom_port) for _ in range(peers)]
            for caller in callers:
                assert (await caller.associate())[0] == 2
            statuses = await asyncio.gather(*(caller.store(data) for caller in callers))
            assert statuses == [0] * peers
            for caller in callers:
                await caller.release()
                caller.close()

        together(race())
        assert stored(gateway, study) == {"1.2.3.9": data}
        (archive,) = archives(gateway, study)
        assert len([name for name in members(archive) if name.endswith(".dcm")]) == 1


# -- F54: instances of several gigabytes -----------------------------------------------------------

BLOCK = random.Random(54).randbytes(131_060)
"""A piece of a large instance: as much as a PDU of 131072 bytes takes."""


def large(size: int, study: str) -> Iterator[bytes]:
    """A data set of this many bytes: private elements behind the head, of 1 GiB at most."""
    head = wire.data_set(study=study)
    yield head
    left = size - len(head)
    while left:
        part = min(left - 12, 1 << 30)
        part -= 14 if 0 < left - 12 - part < 14 else 0  # what is left must be an element too
        yield struct.pack("<HH2sHL", 0x7FE1, 0x1010, b"OB", 0, part)
        left -= 12 + part
        while part:
            yield BLOCK[:part]
            part -= min(part, len(BLOCK))


@pytest.mark.fault("F54")
@pytest.mark.parametrize(
    "size",
    by_form([(256 << 20) + 1], [(1 << 31) + 1, (1 << 32) - 1, 1 << 32, 5 << 30]),
)
def test_memory_does_not_grow_with_the_instance(start: Gateways, size: int) -> None:
    """The fast form is smaller than the row, and 256 times its lane."""
    own = start(fastjmix=SMALL_LANES, builder="release_grace_secs = 0")
    study = new_uid()
    digest = hashlib.sha256()
    largest = 0
    with Peer(own.dicom_port, timeout=600) as peer:
        peer.associate(max_pdu=131072)
        peer.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True)))
        for number, part in enumerate(large(size, study)):
            digest.update(part)
            peer.send(struct.pack(">BBLLBB", 4, 0, len(part) + 6, len(part) + 2, 1, 0) + part)
            if number % 500 == 0:
                largest = max(largest, *(one.private_kb for one in in_use(own).values()))
        peer.send(struct.pack(">BBLLBB", 4, 0, 6, 2, 1, 2))
        assert peer.status() == 0
        peer.release()
    assert largest < 100 << 10, "KB: Python, its libraries, and no instance"
    (archive,) = until(lambda: archives(own, study), "the envelope", by_form(30, 300))
    with zipfile.ZipFile(archive) as opened:
        (name,) = [n for n in opened.namelist() if n.endswith(".dcm")]
        found = hashlib.sha256()
        with opened.open(name) as member:
            meta = member.read(144)
            member.read(int.from_bytes(meta[140:144], "little"))
            length = 0
            while part := member.read(1 << 20):
                found.update(part)
                length += len(part)
    assert (length, found.digest()) == (size, digest.digest())
    delete_whole(own.spool / "outbox")


# -- F55 to F60: messages --------------------------------------------------------------------------


@pytest.mark.fault("F55")
def test_a_store_without_a_data_set_is_refused(peer: Peer) -> None:
    peer.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3", data_set=wire.NO_DATA_SET), True)))
    assert peer.status() == 0xC000
    assert peer.store(b"") & 0xF000 == 0xC000  # announced, and one empty PDV
    assert peer.store(wire.data_set(study=new_uid())) == 0


@pytest.mark.fault("F56")
@pytest.mark.parametrize("context", [0, 2, 5, 255])
def test_a_context_that_was_not_accepted_is_aborted(peer: Peer, context: int) -> None:
    peer.send(wire.p_data(wire.pdvs(context, wire.store_rq("1.2"), True)))
    assert peer.pdu() == PROVIDER_6


@pytest.mark.fault("F56")
def test_a_data_set_in_another_context_than_its_command_is_aborted(
    gateway: Gateway, peer: Peer
) -> None:
    items = wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + wire.pdvs(3, wire.data_set(), False)
    with Peer(gateway.dicom_port) as good:
        good.associate()
        peer.send(wire.p_data(items))
        assert peer.pdu() == PROVIDER_6
        assert good.store(wire.data_set(study=new_uid())) == 0


WRONG_FLAGS = {
    "data before a command": wire.pdvs(1, wire.data_set(), False),
    "a command inside a data set": [
        *wire.pdvs(1, wire.store_rq("1.2.3.9"), True),
        *wire.pdvs(1, wire.data_set(), False, [20])[:-1],
        *wire.pdvs(1, wire.echo_rq(), True),
    ],
    "two lasts": [
        *wire.pdvs(1, wire.store_rq("1.2.3.9"), True),
        *wire.pdvs(1, wire.data_set()[:200], False),
        *wire.pdvs(1, wire.data_set()[200:], False),
    ],
    "reserved bits": [struct.pack(">LBB", 3, 1, 0x83) + b"x"],
}


@pytest.mark.fault("F57")
@pytest.mark.parametrize("what", WRONG_FLAGS)
def test_wrong_message_control_headers_are_aborted(peer: Peer, what: str) -> None:
    """The first of two "last" fragments ended its data set, which is kept as it came."""
    peer.send(wire.p_data(WRONG_FLAGS[what]))
    if what == "two lasts":
        assert peer.status() == 0
    assert peer.pdu() == PROVIDER_6


@pytest.mark.fault("F58")
@pytest.mark.parametrize("size", [1, 3, 7])
def test_tiny_fragments_are_put_together_exactly(gateway: Gateway, size: int) -> None:
    study = new_uid()
    data = wire.data_set(study=study, pixels=os.urandom(6000))
    pieces = [size] * (len(data) // size + 1)
    items = wire.pdvs(1, wire.store_rq("1.2.3.9"), True, [1] * 200)
    items += [struct.pack(">LBB", 2, 1, 0), *wire.pdvs(1, data, False, pieces)]
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        peer.send(wire.p_data(items))
        assert peer.status() == 0
        peer.release()
    assert stored(gateway, study) == {"1.2.3.9": data}


@pytest.mark.fault("F59")
def test_command_and_data_and_several_instances_in_one_pdu(gateway: Gateway) -> None:
    study = new_uid()
    sets = {f"1.2.{n}": wire.data_set(f"1.2.{n}", study=study) for n in range(1, 9)}
    items = []
    for instance, data in sets.items():
        items += wire.pdvs(1, wire.store_rq(instance), True) + wire.pdvs(1, data, False, [100])
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        peer.send(wire.pdu(4, b"".join(items)))
        assert [peer.status() for _ in sets] == [0] * len(sets)
        peer.release()
    assert stored(gateway, study) == sets


@pytest.mark.fault("F60")
@pytest.mark.parametrize("length", [0, 5, 131_073, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_pdu_of_an_impossible_length_is_refused_by_its_header(
    gateway: Gateway, length: int
) -> None:
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        peer.send(struct.pack(">BBL", 4, 0, length))  # and no byte of what it announces
        assert peer.pdu() == PROVIDER_6
        assert peer.closed()


# -- F61, F62, F67: at the door --------------------------------------------------------------------


@pytest.mark.fault("F61")
def test_foreign_protocols_fill_neither_memory_nor_the_log(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 0")
    works(own)
    base, shared = at_rest(own), lanes_kb(own)
    noise = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3", b"SSH-2.0-x\r\n",
        b"\0" * 100, os.urandom(1 << 20).replace(b"\1", b"\2"), b"",
    ]  # fmt: skip
    count = by_form(1000, 10_000)
    for number in range(count):
        with Peer(own.dicom_port) as peer, contextlib.suppress(ConnectionError):
            peer.send(noise[number % len(noise)] if number < 300 else b"\xff")
    works(own)
    back_to(own, base, shared)
    lines = sum("connection_aborted" in line for line in own.lines)
    own.wait_for("peers_not_listed count=")
    assert lines < count / 2


def rq(*contexts: bytes, **options: Any) -> bytes:
    return wire.associate_rq(*contexts, **options)


CT = wire.context(1, wire.CT, wire.EXPLICIT)
REQUESTS = {
    # name: (the request, kind and start of the answer)
    "no context": (rq(), (2, b"")),
    "128 contexts": (
        rq(*(wire.context(n, wire.CT, wire.EXPLICIT) for n in range(1, 256, 2))),
        (2, b""),
    ),
    "200 contexts": (
        rq(*(wire.context((2 * n + 1) % 256, wire.CT, wire.EXPLICIT) for n in range(200))),
        (2, b""),
    ),
    "an ID twice": (rq(CT, CT), (2, b"")),
    "1000 transfer syntaxes": (
        rq(wire.context(1, wire.CT, *(f"1.2.{n}" for n in range(1000)))),
        (2, b""),
    ),
    "unknown items": (rq(CT, wire.item(0x77, b"?"), user=wire.item(0x5F, b"!")), (2, b"")),
    "protocol version 0": (rq(CT, version=0), (3, b"\0\1\2\2")),
    "protocol versions 1 and 2": (rq(CT, version=3), (2, b"")),
    "another application context": (rq(CT, application="1.2.3"), (3, b"\0\1\1\2")),
    # F67: who calls whom
    "called: lower case": (rq(CT, called=b"jmix_receiver"), (3, b"\0\1\1\7")),
    "called: spaces": (rq(CT, called=b" " * 16), (3, b"\0\1\1\7")),
    "called: NUL": (rq(CT, called=b"\0" * 16), (3, b"\0\1\1\7")),
    "called: a path": (rq(CT, called=b"../../etc/passwd"), (3, b"\0\1\1\7")),
    "called: an escape": (rq(CT, called=b"\x1b[2J"), (3, b"\0\1\1\7")),
    "called: not ASCII": (rq(CT, called="GERÄT".encode("latin-1")), (3, b"\0\1\1\7")),
    "called: padded in front": (rq(CT, called=b"   JMIX_RECEIVER"), (2, b"")),
    "called: 17 characters": (rq(CT, called=b"JMIX_RECEIVER___" + b"X"), (3, b"\0\1\1\7")),
}


@pytest.mark.fault("F62")
@pytest.mark.parametrize("what", [name for name in REQUESTS if not name.startswith("called")])
def test_odd_requests_are_answered(gateway: Gateway, what: str) -> None:
    request, answer = REQUESTS[what]
    with Peer(gateway.dicom_port) as peer:
        peer.send(request)
        kind, body = peer.pdu()
        assert (kind, body if kind == 3 else b"") == answer
        if kind == 2:
            results = [i for k, i in wire.parse_items(body[68:]) if k == 0x21]
            assert len(results) == request.count(wire.item(0x30, wire.CT.encode()))


@pytest.mark.fault("F67")
@pytest.mark.parametrize("what", [name for name in REQUESTS if name.startswith("called")])
def test_ae_titles_are_compared_and_nothing_else(gateway: Gateway, what: str) -> None:
    """Bytes 11 to 26 are the title, whatever is meant by them: a 17th character is the calling
    AE title's first."""
    request, answer = REQUESTS[what]
    with Peer(gateway.dicom_port) as peer:
        peer.send(request)
        kind, body = peer.pdu()
        assert (kind, body if kind == 3 else b"") == answer


@pytest.mark.fault("F67")
def test_calling_ae_titles_of_every_kind_are_let_in_without_a_table(gateway: Gateway) -> None:
    for calling in (b"", b" " * 16, b"\0" * 16, b"lower", b"../../x", b"\x1b[2J", b"\xc4\xd6"):
        study = new_uid()
        data = wire.data_set(study=study)
        with Peer(gateway.dicom_port) as peer:
            assert peer.associate(calling=calling)[0] == 2
            assert peer.store(data) == 0
            peer.release()
        assert stored(gateway, study) == {"1.2.3.9": data}


# -- F63 to F66: data sets -------------------------------------------------------------------------


@pytest.mark.fault("F63")
def test_an_unknown_transfer_syntax_is_kept_and_another_service_refused(gateway: Gateway) -> None:
    """Unknown storage classes and syntaxes are taken and stored as they are; a service that is
    not offered gets result 3, a context without a transfer syntax result 4 (PS3.8 Table 9-18)."""
    study, private = new_uid(), "1.3.6.1.4.1.9999.2"
    data = wire.data_set(study=study, sop_class="1.3.6.1.4.1.9999.1")
    with Peer(gateway.dicom_port) as peer:
        _, body = peer.associate(
            wire.context(1, "1.3.6.1.4.1.9999.1", private),
            wire.context(3, "1.2.840.10008.5.1.4.31", wire.IMPLICIT),
            wire.context(5, wire.CT),
            wire.context(7, wire.CT, "../x"),
            wire.context(9, "../x", wire.IMPLICIT),
        )
        results = [(i[0], i[2]) for k, i in wire.parse_items(body[68:]) if k == 0x21]
        assert results == [(1, 0), (3, 3), (5, 4), (7, 4), (9, 3)]
        assert peer.store(data, sop_class="1.3.6.1.4.1.9999.1") == 0
        peer.release()
    assert stored(gateway, study) == {"1.2.3.9": data}


def deflated(data: bytes, zeros: int = 0) -> bytes:
    """Raw deflate of `data` and so many zero bytes behind it."""
    packer = zlib.compressobj(9, wbits=-15)
    parts = [packer.compress(data)]
    parts += [packer.compress(bytes(1 << 20)) for _ in range(zeros >> 20)]
    whole = b"".join([*parts, packer.flush()])
    return whole + b"\0" * (len(whole) % 2)


@pytest.mark.fault("F64")
def test_deflated_garbage_and_half_streams(gateway: Gateway) -> None:
    study = new_uid()
    whole = deflated(wire.data_set(study=study, pixels=os.urandom(90_000)))
    with Peer(gateway.dicom_port) as peer:
        peer.associate(wire.context(1, wire.CT, wire.DEFLATED))
        assert peer.store(os.urandom(2000).replace(b"\x03", b"\x07")) & 0xF000 == 0xC000
        assert peer.store(whole[:60]) & 0xF000 == 0xC000  # before its UIDs
        assert peer.store(whole[:50_000]) == 0xC000  # behind them: half an image
        assert peer.store(whole) == 0
        peer.release()
    assert stored(gateway, study) == {"1.2.3.9": whole}


def elements(*tags: int, value: bytes = b"") -> bytes:
    return b"".join(wire.element(tag, b"LO", value) for tag in tags)


def private(count: int) -> bytes:
    """So many elements of 8 bytes: (0009,10xx), which stand before the Study Instance UID."""
    one = [wire.element(0x00091000 | n, b"LO", b"") for n in range(256)]
    return b"".join(one) * (count // 256)


def between(data: bytes, middle: bytes) -> bytes:
    """`middle` before the Patient's Name of a data set: behind its SOP, before its study."""
    at = data.index(struct.pack("<HH", 0x0010, 0x0010))
    return data[:at] + middle + data[at:]


def odd_data_sets(study: str) -> dict[str, tuple[bytes, bool]]:
    """Data sets that no text book has, and whether they are kept."""
    plain = wire.data_set(study=study)
    end = struct.pack("<HH2sH", 0x0020, 0x4000, b"LT", 60000) + b"short"
    return {
        "a VR that is none": (plain + struct.pack("<HH2sH", 0x20, 0x4000, b"??", 2) + b"ab", True),
        "a value beyond the end": (plain + end, False),
        "elements out of order": (elements(0x00400100, 0x00100020) + plain, True),
        "group 0002 inside": (elements(0x00020010, value=wire.EXPLICIT.encode()) + plain, True),
        "a wrong character set": (plain.replace(b"ISO_IR 100", b"ISO_IR 999"), True),
        "no character set at all": (plain.replace(b"ISO_IR 100", b"\xff" * 10), True),
        "many private elements": (between(plain, private(100_000)), True),
        "very many private elements": (between(plain, private(300_000)), True),
        "a million behind the head": (plain + private(1_000_000), True),
    }


@pytest.mark.fault("F65")
@pytest.mark.parametrize("what", odd_data_sets(""))
def test_odd_data_sets_are_kept_byte_for_byte_or_refused(gateway: Gateway, what: str) -> None:
    study = new_uid()
    data, kept = odd_data_sets(study)[what]
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        status = peer.store(data)
        assert status == 0 if kept else status & 0xF000 == 0xC000
        assert peer.store(wire.data_set("1.2.3.10", study=study), "1.2.3.10") == 0
        peer.release()
    assert stored(gateway, study).get("1.2.3.9") == (data if kept else None)


# -- F68, F69: many --------------------------------------------------------------------------------


def crowd_of_500(own: Gateway) -> None:
    """At once, where 200 are let in: the rest is rejected (2/3/2) at once, and succeeds later."""
    study = new_uid()
    sent = {f"1.2.9.{n}": wire.data_set(f"1.2.9.{n}", study=study) for n in range(500)}

    async def crowd() -> None:
        arrived, waited = [], []

        async def first(number: int) -> tuple[int, tuple[int, bytes], Caller]:
            caller = await Caller.connect(own.dicom_port)
            begun = time.monotonic()
            arrived.append(begun)
            answer = await caller.associate(calling=b"AE%d" % number)
            if answer[0] != 2:
                waited.append(time.monotonic() - begun)
            return number, answer, caller

        began = time.monotonic()
        tried = await asyncio.gather(*map(first, range(500)))
        took = max(arrived) - began
        print(f"500 in {took:.2f} s, each that was rejected within {max(waited):.2f} s")
        assert took < by_form(5, 1.5)  # a busy machine is slow to connect
        assert max(waited) < by_form(5, 1)
        let_in = [(number, caller) for number, answer, caller in tried if answer[0] == 2]
        refused = [(number, answer) for number, answer, _ in tried if answer[0] != 2]
        assert len(let_in) == 200
        assert {answer for _, answer in refused} == {(3, CONGESTED)}

        async def deliver(number: int, caller: Caller | None = None) -> None:
            while caller is None:
                caller = await Caller.connect(own.dicom_port)
                # A title each: 300 devices, not one that comes back for the study (F102).
                if (await caller.associate(calling=b"AE%d" % number))[0] != 2:
                    caller.close()
                    caller = None
                    await asyncio.sleep(random.uniform(0.05, 0.5))
            instance = f"1.2.9.{number}"
            assert await caller.store(sent[instance], instance) == 0
            await caller.release()
            caller.close()

        await asyncio.gather(
            *(deliver(number, caller) for number, caller in let_in),
            *(deliver(number) for number, _ in refused),
        )

    together(crowd())
    found: dict[str, bytes] = {}

    def all_there() -> bool:
        for archive in archives(own, study):
            found.update(images(archive))
        return len(found) == 500

    until(all_there, "500 instances")
    assert found == sent


@pytest.mark.fault("F68")
def test_five_hundred_associations_in_one_second_with_a_limit_of_200(start: Gateways) -> None:
    """The rest is rejected (2/3/2) at once, everyone succeeds in the end, and nothing is left."""
    own = start(
        fastjmix=SMALL_LANES,
        endpoint="max_associations = 200",
        builder="release_grace_secs = 0.1",
        first=SOON_IDLE,
    )
    works(own)
    before = at_rest(own)
    crowd_of_500(own)
    for name, was in before.items():
        assert status_field(own.children()[name], "VmHWM") < was.private_kb + (300 << 10)
    base = at_rest(own)
    # Python keeps an arena of the first crowd's; of the second nothing may stay.
    kept = {name: replace(was, private_kb=base[name].private_kb) for name, was in before.items()}
    grown = {name: kept[name].private_kb - was.private_kb for name, was in before.items()}
    assert {
        name: kb for name, kb in grown.items() if kb >= SPARE_KB.get(name, FIRST_CROWD_KB)
    } == {}
    back_to(own, kept, 0)
    crowd_of_500(own)
    at_rest(own)
    back_to(own, kept, 0)


@pytest.mark.fault("F69")
def test_thousands_of_connections_leave_nothing(start: Gateways) -> None:
    """Connects that close, and associations that abort: descriptors, memory, lanes as before."""
    own = start(fastjmix=SMALL_LANES, builder="release_grace_secs = 0")
    count = by_form(2000, 10_000)

    async def storm(times: int) -> None:
        async def one(number: int) -> None:
            caller = await Caller.connect(own.dicom_port)
            if number % 2:
                assert (await caller.associate())[0] == 2
                await caller.send(wire.ABORT)
                assert await caller.reader.read() == b""
            caller.close()

        for start in range(0, 2 * times, 20):
            await asyncio.gather(*map(one, range(start, start + 20)))

    together(storm(200))
    works(own)
    base, shared = at_rest(own), lanes_kb(own)
    together(storm(count))
    works(own)
    until(lambda: open_sockets(own) == 0, "every connection is closed")
    back_to(own, base, shared)
    assert get(f"{own.http}/readyz")[0] == 200


# -- F70: other services ---------------------------------------------------------------------------

OTHERS = {"C-FIND": 0x20, "C-MOVE": 0x21, "C-GET": 0x10, "N-ACTION": 0x130, "N-CREATE": 0x140}


@pytest.mark.fault("F70")
@pytest.mark.parametrize("service", OTHERS)
@pytest.mark.parametrize("with_data", [True, False])
def test_other_services_are_refused_and_the_association_goes_on(
    peer: Peer, service: str, with_data: bool
) -> None:
    request = wire.command(
        {
            0x0002: wire.uid(wire.CT),
            0x0100: wire.us(OTHERS[service]),
            0x0110: wire.us(5),
            0x0700: wire.us(7),  # a priority that does not exist
            0x0800: wire.us(1 if with_data else wire.NO_DATA_SET),
        }
    )
    data = wire.pdvs(1, b"identifier", False) if with_data else []
    peer.send(wire.p_data(wire.pdvs(1, request, True) + data))
    answer = peer.response()
    assert (answer[0x0900], answer[0x0120]) == (wire.us(0x0211), wire.us(5))
    assert answer[0x0100] == wire.us(OTHERS[service] | 0x8000)
    assert peer.store(wire.data_set(study=new_uid())) == 0


@pytest.mark.fault("F70")
def test_cancel_and_a_message_id_that_is_used_again(peer: Peer) -> None:
    """C-CANCEL has no answer; a Message ID is free again when its operation is over, and one
    operation at a time is what was negotiated."""
    cancel = {0x0100: wire.us(0x0FFF), 0x0120: wire.us(5), 0x0800: wire.us(wire.NO_DATA_SET)}
    peer.send(wire.p_data(wire.pdvs(1, wire.command(cancel), True)))
    study = new_uid()
    for instance in ("1.2.3.1", "1.2.3.2"):
        data = wire.data_set(instance, study=study)
        assert peer.store(data, instance, message=7) == 0
    other = wire.data_set(sop_class="1.2.840.10008.5.1.4.1.1.4")
    assert peer.store(other, sop_class="1.2.840.10008.5.1.4.1.1.4") == 0
