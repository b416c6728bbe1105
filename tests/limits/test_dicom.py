"""Every bound of a DICOM peer at its limit - 1, its limit, and its limit + 1: docs/limits.md.

Bounds of one turn of the loop are in receiver/test_loop.py, of envelopes in
limits/test_envelopes.py, of HTTP in limits/test_http.py. The page is compared with the program
here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import random
import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix import _core
from fastjmix._core import PdvScanner
from fastjmix.dicom import associate_rq, association
from fastjmix.dicom.association import Accepted, Rejected
from fastjmix.errors import ProtocolError
from fastjmix.receiver import connection
from tests.core.test_core import Pair, check, nested_to, scan
from tests.core.test_core import message as core_message
from tests.dicom.test_association import acceptor
from tests.support import wire
from tests.support.dicom_peers import (
    CONGESTED,
    PROVIDER_6,
    Caller,
    is_let_in,
    message,
    new_uid,
    together,
    works,
)
from tests.support.gateway import Gateway, Gateways, Peer, get, running, until

HERE = Path(__file__).resolve().parents[1]
MACHINE_SECS = 10
"""Seconds that a busy machine may add to a deadline."""
CT = wire.context(1, wire.CT, wire.EXPLICIT)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(Gateway(tmp_path_factory.mktemp("gateway"), 9)) as process:
        yield process


# -- the A-ASSOCIATE-RQ ----------------------------------------------------------------------------


def is_taken(request: bytes) -> bool:
    """True: answered. False: the peer broke a bound, and is aborted (reason 6)."""
    try:
        answer = acceptor().answer(request)
    except ProtocolError as problem:
        return problem.reason != 6
    return isinstance(answer, Accepted | Rejected)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_request(gateway: Gateway, off: int) -> None:
    plain = wire.associate_rq(CT)
    left = associate_rq.ASSOCIATE_RQ_MAX + off - (len(plain) - 6)
    padding = b""
    while left:  # items that nobody knows
        part = min(left - 4, 0xFFFF)
        part -= 4 if 0 < left - 4 - part < 4 else 0
        padding += wire.item(0x77, b"x" * part)
        left -= 4 + part
    request = plain[6:] + padding
    with Peer(gateway.dicom_port) as peer:
        peer.send(wire.pdu(1, request)[: 1 << 17])
        if off > 0:
            assert peer.pdu() == PROVIDER_6  # by its header, long before it is whole
        else:
            peer.send(wire.pdu(1, request)[1 << 17 :])
            assert peer.pdu()[0] == 2


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_presentation_contexts(off: int) -> None:
    contexts = [
        wire.context((2 * n + 1) % 256, wire.CT, wire.EXPLICIT)
        for n in range(associate_rq.CONTEXTS_MAX + off)
    ]
    assert is_taken(wire.associate_rq(*contexts)) == (off <= 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_transfer_syntaxes_of_a_context(off: int) -> None:
    syntaxes = [f"1.2.{n}" for n in range(associate_rq.SYNTAXES_MAX + off)]
    assert is_taken(wire.associate_rq(wire.context(1, wire.CT, *syntaxes))) == (off <= 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_items_in_all(off: int) -> None:
    plain = 1 + 3 + 3  # application context, a context and its two, user information and its two
    unknown = [wire.item(0x77, b"")] * (associate_rq.ITEMS_MAX + off - plain)
    assert is_taken(wire.associate_rq(CT, *unknown)) == (off <= 0)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 0])
def test_the_peers_own_maximum_length(gateway: Gateway, size: int) -> None:
    """0: unlimited."""
    with Peer(gateway.dicom_port) as peer:
        peer.associate(max_pdu=size)
        peer.send(wire.p_data(wire.pdvs(3, wire.echo_rq(), True)))
        kind, body = peer.pdu()
        assert kind == 4
        smallest = association.PEER_PDU_MIN
        assert len(body) > smallest if size == 0 else len(body) == smallest
        data = body[6:]
        while not body[5] & 2:
            kind, body = peer.pdu()
            data += body[6:]
        assert wire.parse_command(data)[0x0900] == wire.us(0)
        peer.release()


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_characters_of_an_implementation_version_name(off: int) -> None:
    name = b"V" * (associate_rq.IMPLEMENTATION_CHARS_MAX + off)
    answer = acceptor().answer(wire.associate_rq(CT, user=wire.item(0x55, name)))
    assert isinstance(answer, Accepted)
    assert len(answer.peer_implementation) == min(len(name), associate_rq.IMPLEMENTATION_CHARS_MAX)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_answers_are_remembered_to_an_end(off: int) -> None:
    one = acceptor()
    plain = wire.associate_rq(CT)
    request = wire.associate_rq(
        CT, wire.item(0x77, b"x" * (association.CACHED_RQ_MAX + off - len(plain) - 4))
    )
    assert len(request) == association.CACHED_RQ_MAX + off
    assert (one.answer(request) is one.answer(request)) == (off <= 0)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_answer_that_was_not_asked_for_longest_is_forgotten(off: int) -> None:
    one = acceptor()
    requests = [
        wire.associate_rq(CT, calling=b"%d" % number)
        for number in range(association.CACHE_MAX + off)
    ]
    first, second = one.answer(requests[0]), one.answer(requests[1])
    assert one.answer(requests[0]) is first  # so that the second is the oldest
    for request in requests[2:]:
        one.answer(request)
    assert len(one._answers) == min(len(requests), association.CACHE_MAX)
    assert one.answer(requests[0]) is first
    assert (one.answer(requests[1]) is second) == (off <= 0)


@pytest.mark.parametrize("length", [63, 64, 65])
def test_characters_of_a_uid(length: int) -> None:
    uid = ("1.2." + "3" * 64)[:length]
    assert association.is_uid(uid.encode()) == (length <= association.UID_MAX)
    data = wire.data_set(study=uid)
    head = _core.read_head(data, 1)
    assert head is not None
    assert (head.study_instance_uid == uid.encode()) == (length <= 64)


# -- framing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("max_pdu", [4096, 131_072])
def test_bytes_of_a_pdu(max_pdu: int, off: int) -> None:
    pair = Pair()
    scanner = PdvScanner(pair.lanes, pair.lane, max_pdu)
    header = struct.pack(">BBL", 4, 0, max_pdu + off)
    view = scanner.reserve(len(header))
    view[:] = header
    scanner.commit(len(header))
    assert scanner.scan() == (_core.BROKEN if off > 0 else _core.MORE)


@pytest.mark.parametrize("length", [1, 2, 3, 11, 12, 13])
def test_bytes_of_a_pdv(length: int) -> None:
    """2 (an empty fragment) to what its PDU holds behind the length, here 12."""
    behind = struct.pack(">LBB", 2, 1, 1) * 2  # read as fragments where they stand free
    body = struct.pack(">LBB", length, 1, 1) + (behind if length == 2 else b"\0" * 10)
    _, scanner = scan(wire.pdu(4, body))
    refused = scanner.problem is not None and scanner.problem.startswith(f"a PDV of {length} bytes")
    assert refused == (length in (1, 13))


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("fragments", [1, 100])
def test_bytes_of_a_command_set(off: int, fragments: int) -> None:
    size = _core.COMMAND_BYTES_MAX + off
    items = wire.pdvs(1, b"x" * size, True, [size // fragments] * (fragments - 1))
    assert scan(wire.p_data(items))[0] == (_core.BROKEN if off > 0 else _core.COMMAND)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("lane", [1 << 20, 8 << 20, 16 << 20])
def test_bytes_that_wait_for_uids(lane: int, off: int) -> None:
    """Half of the lane, to the header that shows that the UIDs are complete. With one more the
    instance has a packer before they are known, and comes out the same."""
    pair = Pair(capacity=lane)
    limit = _core.head_limit(lane)
    plain = wire.data_set()
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    fill = limit + off - len(plain) - 8 - 12
    middle = struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, fill) + b"x" * fill
    head = plain[:at] + middle + plain[at:]
    data = head + wire.element(0x00204000, b"LT", b"x" * 40) + b"\0" * 200_000
    sizes = [65536] * (limit // 65536) + [limit % 65536, 100_000]  # a fragment ends at the limit
    pair.feed(core_message(data, sizes), [1 << 20])
    assert (_core.LONG_HEAD in pair.events) == (off > 0)
    assert _core.HEAD in pair.events
    check(pair, data)


@pytest.mark.parametrize("depth", [63, 64, 65])
def test_depth_of_sequences(depth: int) -> None:
    plain = wire.data_set()
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    data = plain[:at] + nested_to(depth) + plain[at:]
    if depth <= _core.HEAD_DEPTH_MAX:
        assert _core.read_head(data, 1) is not None
    else:
        with pytest.raises(ValueError, match="not a data set"):
            _core.read_head(data, 1)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("filler", [b"x", None], ids=["in one look", "in several looks"])
def test_inflated_bytes_that_are_searched(gateway: Gateway, filler: bytes | None, off: int) -> None:
    """The last byte of the last UID is the one that must lie within INFLATE_MAX; a good deal comes
    behind it. `filler` is packed to nothing, so that the whole is there at the first look, or not
    at all."""
    plain = wire.data_set(study=new_uid(), pixels=b"x" * 5000)
    at = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    series = wire.element(0x0020000E, b"UI", b"1.2.3.2")
    fill = _core.INFLATE_MAX + off - (plain.index(series) + len(series)) - 12
    value = filler * fill if filler else random.Random(off).randbytes(fill)
    data = plain[:at] + struct.pack("<HH2sHL", 9, 0x1010, b"OB", 0, fill) + value + plain[at:]
    assert data.index(series) + len(series) == _core.INFLATE_MAX + off
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(data) + packer.flush()
    packed += b"\0" * (len(packed) % 2)
    with Peer(gateway.dicom_port) as peer:
        peer.associate(wire.context(1, wire.CT, wire.DEFLATED))
        assert peer.store(packed) == (0xC002 if off > 0 else 0)
        peer.release()


# -- pace and time ---------------------------------------------------------------------------------


async def how_it_ends(caller: Caller) -> bytes:
    """Returns what comes until the connection is closed."""
    with contextlib.suppress(ConnectionError):
        return await caller.reader.read()
    return b""


ENDED = wire.pdu(7, b"\0\0\0\0")
PATIENT_LIMITS = """
acse_timeout_secs = 1
dimse_timeout_secs = 2
network_timeout_secs = 3
min_bytes_per_sec = 0
"""


def test_a_silent_peer_is_ended_at_its_limit(start: Gateways) -> None:
    """Neither before nor, but for the half second between two looks and a slow machine's share,
    after it. Each limit is another, and the log says which of them it was."""
    own = start(endpoint=PATIENT_LIMITS, fastjmix="lane_bytes = 1048576")

    async def one(name: bytes, sent: bytes, seconds: int, answer: bytes) -> None:
        began = time.monotonic()
        caller = await Caller.connect(own.dicom_port)
        if name:
            assert (await caller.associate(calling=name))[0] == 2
        await caller.send(sent)
        assert await how_it_ends(caller) == answer
        took = time.monotonic() - began
        assert seconds <= took < seconds + 2 + MACHINE_SECS, (name, took)
        caller.close()

    together(
        one(b"", b"", 1, b""),
        one(b"", wire.associate_rq(CT)[:-1], 1, b""),
        one(b"MIDWAY", message(b"x" * 5000)[:2000], 2, ENDED),
        one(b"BETWEEN", b"", 3, ENDED),
    )
    own.wait_for('calling_ae=MIDWAY .*how="aborted: stalled inside a message"')
    own.wait_for('calling_ae=BETWEEN .*how="aborted: idle"')


# -- how many --------------------------------------------------------------------------------------


def test_connections_without_an_association(start: Gateways) -> None:
    """One more than max_half_open is closed at once; the others may go on."""
    own = start(endpoint="max_half_open = 5")
    peers = [Peer(own.dicom_port) for _ in range(5)]
    for peer in peers:
        peer.send(b"\1")
    until(lambda: turned_away(own) == 0, "five may stand there")
    one_more = Peer(own.dicom_port)
    assert one_more.closed()
    assert turned_away(own) == 1
    peers[0].send(wire.associate_rq(CT)[1:])
    assert peers[0].pdu()[0] == 2  # has come in: there is a place again
    again = Peer(own.dicom_port)
    assert again.associate()[0] == 2
    for peer in (*peers, one_more, again):
        peer.socket.close()
    until(lambda: is_let_in(own), "their places are free")  # it may see them go after a newcomer


def turned_away(own: Gateway) -> float:
    own.wait_for("http_listening")
    metrics = get(f"{own.http}/metrics")[2].decode()
    return float(re.findall(r"turned_away_total\S* ([\d.]+)", metrics)[-1])


def test_an_address_with_all_half_open_connections_gives_way_to_another(start: Gateways) -> None:
    own = start(endpoint="max_half_open = 5")
    greedy = [Peer(own.dicom_port) for _ in range(5)]
    for number in range(3):  # others come in, one after the other, until places are even
        other = socket.create_connection(
            ("127.0.0.1", own.dicom_port), 20, source_address=(f"127.0.0.{number + 2}", 0)
        )
        with other:
            other.sendall(wire.associate_rq(CT))
            assert other.recv(1) == b"\2"
    assert greedy[0].closed()  # the oldest of them
    greedy[-1].send(wire.associate_rq(CT))
    assert greedy[-1].pdu()[0] == 2
    for peer in greedy:
        peer.socket.close()


@pytest.mark.parametrize("limit", [1, 3])
def test_associations_of_a_listener(start: Gateways, limit: int) -> None:
    own = start(endpoint=f"max_associations = {limit}")
    peers = [Peer(own.dicom_port) for _ in range(limit + 1)]
    answers = [peer.associate() for peer in peers]
    assert [kind for kind, _ in answers] == [2] * limit + [3]
    assert answers[-1] == (3, CONGESTED)
    peers[0].release()
    peers[0].socket.close()
    again = Peer(own.dicom_port)
    assert again.associate()[0] == 2
    for peer in (*peers, again):
        peer.socket.close()


def test_associations_of_a_calling_ae_title(start: Gateways) -> None:
    own = start(
        endpoint="""
[endpoints.dicom_receiver.options.aet_table]
TWO = { max_associations = 2 }
MORE = { }
"""
    )
    peers = [Peer(own.dicom_port) for _ in range(4)]
    assert [peer.associate(calling=b"TWO")[0] for peer in peers[:2]] == [2, 2]
    assert peers[2].associate(calling=b"TWO") == (3, CONGESTED)
    assert peers[3].associate(calling=b"MORE")[0] == 2
    for peer in peers:
        peer.socket.close()


# -- peers that run ahead --------------------------------------------------------------------------


def test_a_peer_that_does_not_read_responses_is_not_read(start: Gateways) -> None:
    """No more of its responses are kept than one: memory stays as it was."""
    own = start(fastjmix="lane_bytes = 1048576")
    works(own)
    status = Path(f"/proc/{own.children()['receiver-0']}/status")

    def private_kb() -> int:
        return int(status.read_text().split("RssAnon:")[1].split()[0])

    before, taken = private_kb(), 0
    echo = wire.p_data(wire.pdvs(3, wire.echo_rq(), True))
    with Peer(own.dicom_port) as peer:
        peer.associate()
        peer.socket.settimeout(1.0)
        with contextlib.suppress(TimeoutError):  # TCP takes no more
            while taken < 80 << 20:
                taken += peer.socket.send((echo * 1000)[taken % len(echo) :])
        assert taken < 80 << 20
        assert private_kb() < before + 1024
        works(own)
        peer.socket.settimeout(20)
        for _ in range(taken // len(echo)):
            assert peer.status() == 0  # and when it reads, it gets every one of them


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_messages_of_one_turn_are_all_answered(gateway: Gateway, off: int) -> None:
    count = connection.ANSWERS_A_TURN + off
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        echoes = [wire.p_data(wire.pdvs(3, wire.echo_rq(n), True)) for n in range(1, 5 * count)]
        peer.send(b"".join(echoes))
        numbers = [struct.unpack("<H", peer.response()[0x0120])[0] for _ in echoes]
        assert numbers == list(range(1, 5 * count))
        peer.release()


# -- the table -------------------------------------------------------------------------------------


def rows() -> list[list[str]]:
    page = (HERE.parent / "docs" / "limits.md").read_text()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| `")
    ]


def value_of(name: str) -> object:
    """Returns a module's constant, or (with its class) the default of a field."""
    parts = name.split(".")
    depth = next(n for n, part in enumerate(parts) if not part.lstrip("_").islower())
    found: Any = importlib.import_module(".".join(["fastjmix", *parts[:depth]]))
    for part in parts[depth:]:
        is_field = isinstance(found, type) and dataclasses.is_dataclass(found)
        found = found.__dataclass_fields__[part].default if is_field else getattr(found, part)
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0].strip("`"))
def test_the_table_of_limits_is_true(row: list[str]) -> None:
    """Each name has that value, each key exists, each test exists."""
    name, value, key, _, tests = row
    module = "." in name
    if module:
        assert str(value_of(name.strip("`"))) == value.replace(" ", ""), name
    if key != "–":
        text = (HERE.parent / "docs" / "configuration.md").read_text()
        key = key.partition(" (")[0]
        lines = [line for line in text.splitlines() if line.startswith(f"| {key}")]
        logged = {line.split(" | ")[2].strip("`") for line in lines}
        assert module or value.replace(" ", "") in logged, name
    sources = "".join(path.read_text() for path in HERE.rglob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", tests):
        assert f"def {test}(" in sources, test
    assert "`test_" in tests
