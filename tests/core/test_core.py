"""The compiled room against slow twins: any split of the input gives the same answer."""

from __future__ import annotations

import array
import errno
import hashlib
import os
import random
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isal.isal_zlib import crc32

from fastjmix import _core
from fastjmix._core import Intake, PdvScanner
from fastjmix.ipc.lane import Passage
from tests import reference
from tests.support import wire

PREFIX = b"\0" * 128 + b"DICM" + b"meta"
CAPACITY = 1 << 20
MAX_PDU = 131072


class Pair:
    """A receiver's and a packer's end of one lane, driven by hand in one process."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.passage = Passage(2, capacity, 2)
        self.lanes = self.passage.lanes
        self.lane = self.lanes.lease(0)
        assert self.passage.back(self.lane)
        self.lanes.open(self.lane, 77, 0, b"PEER")
        self.scanner = PdvScanner(self.lanes, self.lane, MAX_PDU)
        self.intake = Intake(self.lanes, 1, [hashlib.sha256], crc32)
        self.stored: list[tuple[bytes, _core.Arrival]] = []
        self.events: list[int] = []
        self._spilled = b""

    def feed(self, data: bytes, sizes: Sequence[int] = ()) -> None:
        """Receives `data` in pieces of `sizes` (repeated), and lets the packer work in between."""
        at, turn = 0, 0
        sizes = list(sizes) or [65536]
        while at < len(data):
            view = self.scanner.reserve(sizes[turn % len(sizes)])
            turn += 1
            part = data[at : at + len(view)]
            view[: len(part)] = part
            self.scanner.commit(len(part))
            at += len(part)
            self.handle(self.scanner.scan())
            self.pack()
            while self.scanner.unscanned and not self.scanner.stalled:
                before = self.scanner.unscanned
                self.handle(self.scanner.scan())
                self.pack()
                if self.scanner.unscanned == before:
                    break

    def handle(self, event: int) -> None:
        scanner = self.scanner
        while event != _core.MORE:
            self.events.append(event)
            if event == _core.COMMAND:
                request = _core.parse_command(scanner.take_command())
                self.request = request
                if request.data_set_type == wire.NO_DATA_SET:
                    scanner.resume()
                else:
                    scanner.expect_data_set(1)
                event = scanner.scan()
            elif event == _core.HEAD and scanner.late:
                scanner.describe(scanner.head)
                event = scanner.accept()
            elif event in (_core.HEAD, _core.LONG_HEAD):
                head = scanner.head if event == _core.HEAD else None
                scanner.route(
                    1, 0, head, PREFIX,
                    self.request.sop_class_uid, self.request.sop_instance_uid,
                    wire.EXPLICIT.encode(),
                )  # fmt: skip
                event = scanner.accept() if head is not None else scanner.seek()
            elif event == _core.BAD_HEAD:
                event = scanner.refuse()
            elif event == _core.END:
                self.pack()
                if not scanner.granted:
                    return
                scanner.resume()
                event = scanner.scan()
            else:
                return

    def pack(self) -> None:
        while (report := self.intake.poll(0)) is not None:
            event, lane = report
            if event == _core.ARRIVED:
                data = self._spilled + b"".join(self.intake.buffers(lane))
                self.stored.append((data, self.intake.arrival(lane)))
                self._spilled = b""
                self.intake.grant(lane, 0)
            elif event == _core.SPILL:
                self._spilled += b"".join(self.intake.buffers(lane))
                self.intake.release(lane)
            else:
                self.events.append(-event)
                self._spilled = b""
                self.intake.grant(lane, 0xFFFF)


def message(
    data: bytes,
    sizes: Sequence[int] = (),
    instance: str = "1.2.3.9",
    command_sizes: Sequence[int] = (),
) -> bytes:
    return wire.p_data(
        wire.pdvs(1, wire.store_rq(instance), True, command_sizes)
        + wire.pdvs(1, data, False, sizes)
    )


def check(pair: Pair, data: bytes, *, alone: bool = True) -> None:
    member, arrival = pair.stored.pop(0)
    expected = PREFIX + data
    assert member == expected
    assert arrival.crc == zlib.crc32(expected)
    digested = arrival.spilled or not alone  # else that is for later
    assert arrival.digest == (hashlib.sha256(expected).digest() if digested else None)
    assert arrival.size == len(expected)
    assert arrival.data_bytes == len(data)


@settings(deadline=None, max_examples=60)
@given(
    pixels=st.integers(0, 300_000),
    pdv_sizes=st.lists(st.integers(1, MAX_PDU - 6), min_size=1, max_size=40),
    reads=st.lists(st.integers(1, 70_000), min_size=1, max_size=10),
    command_sizes=st.lists(st.integers(1, 60), max_size=8),
    seed=st.integers(0, 1 << 30),
)
def test_any_split_gives_the_same_member(
    pixels: int, pdv_sizes: list[int], reads: list[int], command_sizes: list[int], seed: int
) -> None:
    data = wire.data_set(pixels=random.Random(seed).randbytes(pixels))
    sizes = (pdv_sizes * (len(data) // sum(pdv_sizes) + 1))[:4000]
    pair = Pair()
    last = len(data) - sum(sizes)
    if last > MAX_PDU - 6:
        sizes += [MAX_PDU - 6] * (last // (MAX_PDU - 6))
    stream = message(data, sizes, command_sizes=command_sizes)
    pair.feed(stream, reads)
    check(pair, data)
    assert pair.events == [_core.COMMAND, _core.HEAD, _core.END]
    assert pair.scanner.largest_pdu == reference.largest_pdu(stream)


def test_a_head_is_found_however_much_of_its_data_set_comes_at_once() -> None:
    data = wire.data_set(pixels=os.urandom(400_000))
    pair = Pair()
    pair.scanner = PdvScanner(pair.lanes, pair.lane, CAPACITY)
    pair.feed(message(data), [CAPACITY])
    check(pair, data)


@pytest.mark.fault("F58")
@pytest.mark.parametrize("size", [1, 2, 3, 7, 11])
def test_tiny_pdvs(size: int) -> None:
    data = wire.data_set(pixels=os.urandom(20_000))
    pair = Pair()
    pair.feed(message(data, [size] * (len(data) // size + 1)), [4096])
    check(pair, data)


def test_one_byte_at_a_time() -> None:
    data = wire.data_set(pixels=b"ab" * 50)
    pair = Pair()
    pair.feed(message(data, [13] * 100, command_sizes=[1] * 200), [1])
    check(pair, data)


@pytest.mark.fault("F54")
@pytest.mark.parametrize("factor", [0.4, 0.5, 0.99, 1.0, 1.01, 2.5])
@pytest.mark.parametrize("pdv", [16378, 131066])
def test_instances_around_and_beyond_the_lane(factor: float, pdv: int) -> None:
    data = wire.data_set(pixels=os.urandom(int(CAPACITY * factor) // 2 * 2))
    pair = Pair()
    pair.feed(message(data, [pdv] * (len(data) // pdv + 1)), [1 << 20])
    check(pair, data)
    assert pair.scanner.granted


def test_many_instances_reuse_the_lane() -> None:
    pair = Pair()
    for number in range(200):
        data = wire.data_set(f"1.2.3.{number}", pixels=os.urandom(number * 200))
        pair.feed(message(data, [16378] * 10, f"1.2.3.{number}"))
        pair.handle(_core.END)
        check(pair, data)


def test_a_peer_that_runs_ahead_is_read_message_by_message() -> None:
    """Several messages in one read, although one operation was negotiated."""
    pair = Pair()
    sets = [wire.data_set(f"1.2.{n}", pixels=os.urandom(9000)) for n in range(1, 90)]
    stream = b"".join(message(d, [4000] * 4, f"1.2.{n}") for n, d in enumerate(sets, 1))
    at = 0
    while at < len(stream) or pair.scanner.unscanned:
        view = pair.scanner.reserve(300_000)
        part = stream[at : at + len(view)]
        view[: len(part)] = part
        pair.scanner.commit(len(part))
        at += len(part)
        pair.handle(pair.scanner.scan())
        pair.pack()
    assert [m for m, _ in pair.stored] == [PREFIX + d for d in sets]


@pytest.mark.fault("F59")
def test_several_pdvs_and_messages_in_one_pdu() -> None:
    data = wire.data_set(pixels=b"xy" * 100)
    items = wire.pdvs(1, wire.store_rq("1.2.3.9"), True, [20]) + wire.pdvs(1, data, False, [30, 40])
    pair = Pair()
    pair.feed(wire.pdu(0x04, b"".join(items)))
    check(pair, data)


@pytest.mark.fault("F58")
def test_empty_fragments_are_legal() -> None:
    data = wire.data_set()
    items = wire.pdvs(1, wire.store_rq("1.2.3.9"), True)
    items += [struct.pack(">LBB", 2, 1, 0), *wire.pdvs(1, data, False)[:0]]
    items += [struct.pack(">LBB", len(data) + 2, 1, 0) + data, struct.pack(">LBB", 2, 1, 2)]
    pair = Pair()
    pair.feed(wire.p_data(items))
    check(pair, data)


def scan(data: bytes, before: bytes = b"") -> tuple[int, PdvScanner]:
    """The event that `data` gives, after the messages in `before` were handled."""
    pair = Pair()
    pair.feed(before)
    view = pair.scanner.reserve(len(data))
    view[:] = data
    pair.scanner.commit(len(data))
    return pair.scanner.scan(), pair.scanner


COMMAND = wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True))


@pytest.mark.fault("S04")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08\0\0\0\0\x04\0\0\0\0", 1),
        (b"GET / HTTP/1.1\r\n", 1),
        (b"\x16\x03\x01\x02\x00", 1),
        (b"\x01\0\0\0\0\x44", 2),
        (b"\x06\0\0\0\0\x04\0\0\0\0", 2),
        (b"\x04\0\xff\xff\xff\xff", 6),
        (struct.pack(">BBL", 4, 0, MAX_PDU + 1), 6),
        (b"\x04\0\0\0\0\0", 6),
        (b"\x04\0\0\0\0\x05\0\0\0\1\1", 6),
        (wire.pdu(4, struct.pack(">LBB", 1, 1, 3) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 0, 1, 3) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 4, 1, 3) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 0x7FFFFFFF, 1, 3) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 0xFFFFFFFF, 1, 3) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 3, 1, 2) + b"x"), 6),
        (wire.pdu(4, struct.pack(">LBB", 3, 1, 1) + b"x" + struct.pack(">LBB", 3, 3, 3) + b"x"), 6),
        (wire.p_data(wire.pdvs(1, b"x" * 16385, True, [16000])), 6),
    ],
)
def test_broken_framing_names_the_reason(data: bytes, reason: int) -> None:
    event, scanner = scan(data)
    assert event == _core.BROKEN
    assert scanner.reason == reason
    assert scanner.problem


@pytest.mark.fault("F105")
@pytest.mark.parametrize("kind", [5, 7])
@pytest.mark.parametrize("body", [b"", b"\xff" * 4, bytes(9)])
def test_the_bytes_behind_a_release_are_not_checked(kind: int, body: bytes) -> None:
    whole = wire.pdu(kind, body)
    assert scan(whole)[0] == (_core.RELEASE if kind == 5 else _core.ABORTED)
    assert scan(whole[: 5 + min(len(body), 4)])[0] == _core.MORE


@pytest.mark.fault("F105")
@pytest.mark.parametrize("bits", [0x04, 0x80, 0xFC])
def test_reserved_bits_of_a_message_control_header_are_not_checked(bits: int) -> None:
    """PS3.8 Annex E.2."""
    event, scanner = scan(wire.pdu(4, struct.pack(">LBB", 3, 1, bits | 3) + b"x"))
    assert event == _core.COMMAND
    assert scanner.take_command() == b"x"


@pytest.mark.fault("F105")
@pytest.mark.parametrize(
    ("changes", "tail"),
    [
        ({0x0000: b"\1\0"}, b""),
        ({0x0100: b"\1\0\x20\0"}, b""),
        ({0x0110: b"\7\0\x08\0"}, b""),
        ({0x0800: b"\0\0\1\1"}, b""),
        ({0x0010: b"LEN^", 0x1031: b"", 0x5110: b"?" * 999}, b""),
        ({0x0003: b"1.9\0", 0x1001: b"1.9\0"}, b""),
        ({0x1000: b"  1.2.3 \0"}, b""),
        ({0x1000: b"1.2.3\0junk"}, b""),
        ({}, struct.pack("<HHL", 0, 0x1000, 4) + b"1.9\0"),
        ({}, struct.pack("<HHL", 8, 0x0018, 4) + b"1.9\0"),
        ({}, struct.pack("<HHL", 0, 0x5110, 0xFFFFFFFF)),
        ({}, b"\0\0"),
    ],
)
def test_a_command_set_is_read_past_what_does_not_matter(
    changes: dict[int, bytes], tail: bytes
) -> None:
    plain = {0x0002: wire.uid(wire.CT), 0x0100: wire.us(1), 0x0110: wire.us(7), 0x0800: wire.us(0)}
    plain[0x1000] = wire.uid("1.2.3")
    elements = b"".join(
        struct.pack("<HHL", 0, number, len(value)) + value
        for number, value in sorted((plain | changes).items())
    )
    found = _core.parse_command(elements + tail)
    assert (found.field, found.message_id, found.data_set_type) == (1, 7, 0)
    assert (found.sop_class_uid, found.sop_instance_uid) == (wire.CT.encode(), b"1.2.3")


def test_a_pdu_of_exactly_the_announced_length_is_taken() -> None:
    event, _ = scan(wire.p_data(wire.pdvs(1, b"x" * 16384, True, [])))
    assert event == _core.COMMAND
    event, _ = scan(struct.pack(">BBL", 4, 0, MAX_PDU))
    assert event == _core.MORE


@pytest.mark.fault("F57")
@pytest.mark.parametrize(
    ("item", "what"),
    [
        (struct.pack(">LBB", 3, 3, 2) + b"x", "context"),
        (struct.pack(">LBB", 3, 1, 1) + b"x", "command fragment inside"),
    ],
)
def test_a_data_set_keeps_its_context_and_is_not_interleaved(item: bytes, what: str) -> None:
    event, scanner = scan(wire.pdu(4, item), COMMAND)
    assert event == _core.BROKEN
    assert what in scanner.problem


@pytest.mark.fault("F48")
def test_release_inside_a_message_is_unexpected() -> None:
    event, scanner = scan(wire.RELEASE_RQ, COMMAND)
    assert (event, scanner.reason) == (_core.BROKEN, 2)
    part = wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True, [20])[:1])
    event, scanner = scan(part + wire.RELEASE_RQ)
    assert (event, scanner.reason) == (_core.BROKEN, 2)
    assert scan(wire.RELEASE_RQ)[0] == _core.RELEASE
    assert scan(wire.ABORT, COMMAND)[0] == _core.ABORTED


def test_an_aborted_instance_is_forgotten() -> None:
    data = wire.data_set(pixels=os.urandom(400_000))
    pair = Pair()
    pair.feed(message(data, [100_000] * 5)[:200_000])
    assert pair.scanner.abort()
    pair.pack()
    assert pair.scanner.granted
    assert pair.events[-1] == -_core.FORGOTTEN
    assert not pair.stored


def test_a_lane_tells_its_packer_that_the_association_ended() -> None:
    pair = Pair()
    data = wire.data_set()
    pair.feed(message(data))
    check(pair, data)
    pair.lanes.give_back(pair.lane)
    pair.lanes.mark(1, pair.lane)
    assert pair.intake.poll(0) == (_core.CLOSED, pair.lane)
    assert pair.intake.association == 77
    assert pair.intake.poll(0) is None
    assert pair.intake.listening == 0


def test_a_packer_knows_whose_instances_are_arriving() -> None:
    """From the head on, until their status; and when they began."""
    pair = Pair()
    data = wire.data_set(pixels=os.urandom(300_000))
    stream = message(data, [100_000] * 5)
    assert pair.intake.inside() == []
    before = time.monotonic()
    pair.feed(stream[:200_000])
    assert pair.intake.inside() == [(77, 0, b"1.2.3.1")]
    between = time.monotonic()
    pair.feed(stream[200_000:])
    ((_, arrival),) = pair.stored
    check(pair, data)
    assert before <= arrival.began <= between
    assert pair.intake.inside() == []
    assert pair.lanes.newest_association == 0
    assert pair.lanes.new_association() == pair.lanes.newest_association == 1


def test_a_lane_that_brings_nothing_is_not_looked_at_again() -> None:
    """A C-ECHO, or an association that sends elsewhere: its end rings, and that is all."""
    pair = Pair()
    pair.lanes.give_back(pair.lane)
    pair.lanes.mark(1, pair.lane)
    assert pair.intake.poll(0) is None
    assert pair.intake.listening == 0
    data = wire.data_set()  # the next association's
    assert pair.lanes.lease(0) == pair.lane
    pair.lanes.open(pair.lane, 78, 0, b"PEER")
    pair.feed(message(data))
    check(pair, data)
    assert pair.intake.listening == 1


def test_a_new_packer_takes_over_what_is_still_in_the_lane() -> None:
    pair = Pair()
    data = wire.data_set(pixels=os.urandom(300_000))
    stream = message(data, [100_000] * 5)
    pair.feed(stream[:250_000])
    pair.intake = Intake(pair.lanes, 1, [hashlib.sha256], crc32)
    pair.feed(stream[250_000:])
    pair.pack()
    check(pair, data)
    assert pair.scanner.granted


def test_a_new_packer_gives_up_what_the_old_one_wrote_away() -> None:
    pair = Pair()
    data = wire.data_set(pixels=os.urandom(CAPACITY * 2))
    stream = message(data, [100_000] * 30)
    pair.feed(stream[: CAPACITY + 200_000])
    pair.intake = Intake(pair.lanes, 1, [hashlib.sha256], crc32)
    pair.feed(stream[CAPACITY + 200_000 :])
    pair.pack()
    assert -_core.LOST in pair.events
    assert not pair.stored
    assert pair.scanner.granted


def test_a_dead_receivers_lane_is_forgotten() -> None:
    pair = Pair()
    data = wire.data_set(pixels=os.urandom(300_000))
    pair.feed(message(data, [100_000] * 5)[:250_000])
    assert pair.lanes.leased_by(0) == [pair.lane]
    assert not pair.lanes.quiet(pair.lane)
    pair.lanes.doze(1)
    assert pair.lanes.forget(pair.lane) == 1
    pair.pack()
    assert pair.lanes.quiet(pair.lane)


def test_lanes_are_leased_once() -> None:
    passage = Passage(3, 1 << 20, 1)
    assert [passage.lanes.lease(5) for _ in range(4)] == [0, 1, 2, -1]
    passage.lanes.give_back(1)
    assert passage.lanes.lease(6) == 1
    assert passage.lanes.leased_by(5) == [0, 2]


def test_associations_are_counted_by_listener_and_ae_title() -> None:
    lanes = Passage(4, 1 << 20, 1).lanes
    for number, (listener, title) in enumerate([(0, b"A"), (0, b"B"), (1, b"A")], 1):
        lanes.open(lanes.lease(0), number, listener, title)
    assert lanes.associations(0) == 2
    assert lanes.associations(0, b"A") == 1
    assert lanes.associations(1, b"B") == 0
    assert lanes.calling_ae(1) == b"B".ljust(16)


def test_a_packer_is_woken_once_for_each_sleep() -> None:
    lanes = Passage(2, 1 << 20, 2).lanes
    assert not lanes.mark(1, 0)
    lanes.doze(1)
    assert lanes.mark(1, 0)
    assert not lanes.mark(1, 1)


def test_an_instance_that_is_not_alone_is_digested_while_it_arrives() -> None:
    pair, data = Pair(), wire.data_set(pixels=os.urandom(200_000))
    pair.feed(message(data, [60_000] * 4))
    check(pair, data)
    first, lane = pair.scanner, pair.lanes.lease(0)
    assert pair.passage.back(lane)
    pair.lanes.open(lane, 78, 0, b"OTHER")
    pair.scanner = PdvScanner(pair.lanes, lane, MAX_PDU)
    pair.feed(message(data, [60_000] * 4, instance="1.2.3.10")[:100_000])  # stays in its lane
    pair.scanner = first
    pair.feed(message(data, [60_000] * 4))
    check(pair, data, alone=False)


# -- digests of what was written -----------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 300_000])
@pytest.mark.parametrize("step", [1 << 20, 65536, 4099])
def test_a_file_is_digested_in_steps(tmp_path: Path, size: int, step: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "file").write_bytes(b"before" + data + b"behind")
    reading, hasher, crc = _core.FileDigest(crc32), hashlib.sha256(), 0
    with (tmp_path / "file").open("rb") as file:
        for at in range(0, size, step):
            length = min(step, size - at)
            crc = reading.update(hasher, crc, file.fileno(), 6 + at, length)
    assert (hasher.digest(), crc) == (hashlib.sha256(data).digest(), zlib.crc32(data))


def test_what_cannot_be_read_back_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100_000))
    reading = _core.FileDigest(crc32)
    with (tmp_path / "file").open("rb") as file, pytest.raises(OSError, match="shorter") as caught:
        reading.update(hashlib.sha256(), 0, file.fileno(), 0, 100_001)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="Bad file descriptor"):
        reading.update(hashlib.sha256(), 0, -1, 0, 1)


# -- the head ------------------------------------------------------------------------------------


def undefined(tag: int, items: bytes, vr: bytes = b"SQ") -> bytes:
    group, number = tag >> 16, tag & 0xFFFF
    head = struct.pack("<HH", group, number) + vr + struct.pack("<HL", 0, 0xFFFFFFFF)
    return head + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def an_item(content: bytes) -> bytes:
    end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + end


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_head_in_every_encoding(kind: int) -> None:
    data = wire.data_set("1.9.8", number=42, kind=kind, pixels=b"\0" * 100)
    head = _core.read_head(data, kind, False)
    assert head is not None
    assert head.sop_instance_uid == b"1.9.8"
    assert head.sop_class_uid == wire.CT.encode()
    assert (head.study_instance_uid, head.series_instance_uid) == (b"1.2.3.1", b"1.2.3.2")
    assert head.instance_number == 42
    assert data[: head.length] == wire.data_set("1.9.8", number=42, kind=kind)


@pytest.mark.parametrize("cut", range(0, 300, 7))
def test_head_waits_for_what_is_missing(cut: int) -> None:
    data = wire.data_set()
    assert _core.read_head(data[: min(cut, len(data) - 1)], 1, False) is None


def test_head_steps_over_sequences() -> None:
    uid = wire.element(0x0020000D, b"UI", b"9.9.9")
    nested = an_item(undefined(0x00081140, an_item(uid) + an_item(b"")) + uid)
    private = undefined(0x00091001, struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"abcd", b"UN")
    plain = wire.data_set()
    cut = plain.index(struct.pack("<HH", 0x0010, 0x0010))
    data = plain[:cut] + undefined(0x00081110, nested) + private + plain[cut:]
    head = _core.read_head(data, 1)
    assert head is not None
    assert head.study_instance_uid == b"1.2.3.1"


def nested_to(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = undefined(0x00081140, an_item(data))
    return data


@pytest.mark.parametrize(
    "bad", [b"1.2/3", b"..\\x", b"a.b", b"1" * 65, b"", b"1.2\n", "１.2".encode()]
)
def test_head_gives_only_digits_and_dots(bad: bytes) -> None:
    data = wire.data_set().replace(
        wire.element(0x0020000D, b"UI", b"1.2.3.1"), wire.element(0x0020000D, b"UI", bad)
    )
    head = _core.read_head(data, 1)
    assert head is not None
    assert head.study_instance_uid == b""


@pytest.mark.parametrize(
    ("text", "number"),
    [(b"7 ", 7), (b" 12", 12), (b"-3", -3), (b"+4", 4), (b"x", None), (b"", None), (b"1.5", None)],
)
def test_head_instance_number(text: bytes, number: int | None) -> None:
    data = wire.data_set().replace(
        wire.element(0x00200013, b"IS", b"1"), wire.element(0x00200013, b"IS", text)
    )
    head = _core.read_head(data, 1)
    assert head is not None
    assert head.instance_number == number


def test_head_of_a_data_set_that_ends_early() -> None:
    plain = wire.data_set()
    whole = _core.read_head(plain + b"\x20\x00", 1)
    assert whole is not None
    with pytest.raises(ValueError, match="not a data set"):
        _core.read_head(plain[:60], 1)


@pytest.mark.fault("S12")
def test_head_value_longer_than_the_data_set() -> None:
    data = wire.data_set() + struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0)
    assert _core.read_head(data, 1, False) is not None


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=400), st.sampled_from([0, 1, 2]), st.booleans())
def test_head_of_anything_never_fails_otherwise(data: bytes, kind: int, complete: bool) -> None:
    try:
        head = _core.read_head(data, kind, complete)
    except ValueError:
        return
    assert head is None or head.length <= len(data)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                wire.element(0x00080005, b"CS", b"ISO_IR 192"),
                wire.element(0x00100010, b"PN", b"DOE^JOHN"),
                wire.element(0x00100010, b"PN", b"SOMEONE^ELSE"),
                wire.element(0x0020000D, b"UI", b"1.2.3"),
                wire.element(0x0020000E, b"UI", b"1.2.4"),
                wire.element(0x00200013, b"IS", b"7", 0),
                wire.element(0x00281010, b"US", b"\0\1"),
                wire.element(0x00091010, b"OB", b"x" * 300),
                undefined(0x00081140, an_item(wire.element(0x00100010, b"PN", b"INNER"))),
                undefined(0x00081140, b"\xfe\xff\x00\xe0" + b"\xff" * 4),
                struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 0xFFFFFFF0),
                b"\xff\xfe",
            ]
        ),
        max_size=12,
    ).map(b"".join)
    | st.binary(max_size=400),
    st.sampled_from([0, 1, 2]),
    st.integers(0, 400),
)
def test_values_are_those_of_the_slow_twin(data: bytes, kind: int, cut: int) -> None:
    wanted = {0x00080005, 0x00100010, 0x0020000D, 0x0020000E, 0x00200013}
    for one in (data, data[:cut]):
        found = _core.read_values(memoryview(array.array("B", one)), kind, wanted)
        assert found == reference.values(one, kind, wanted)


# -- command sets --------------------------------------------------------------------------------


def test_command_set() -> None:
    found = _core.parse_command(wire.store_rq("1.2.3", message=513))
    assert (found.field, found.message_id, found.data_set_type) == (1, 513, 0)
    assert (found.sop_class_uid, found.sop_instance_uid) == (wire.CT.encode(), b"1.2.3")


@pytest.mark.fault("S08")
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0\0",
        wire.command({0x0100: b"\1"}),
        struct.pack("<HHL", 0, 0x100, 99) + b"\1\0",
        struct.pack("<HHL", 8, 0x100, 2) + b"\1\0",
    ],
)
def test_bad_command_sets_say_why(data: bytes) -> None:
    with pytest.raises(ValueError, match="no Command Field"):
        _core.parse_command(data)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_set_or_a_value_error(data: bytes) -> None:
    try:
        found = _core.parse_command(data)
    except ValueError:
        return
    assert found.field >= 0
