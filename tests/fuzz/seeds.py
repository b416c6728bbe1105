"""Writes the first inputs of each target: python -m tests.fuzz.seeds.

This module makes them; as files libFuzzer reads them too, beside every finding.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from tests.fuzz.run import CORPUS
from tests.support import wire


def pdu() -> Iterator[bytes]:
    """Messages in every encoding, and every way to end."""
    data = {kind: wire.data_set(kind=kind, pixels=b"ab" * 30) for kind in (0, 1, 2)}
    packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data[3] = packed.compress(data[1]) + packed.flush()
    for context in range(8):
        yield framed(message(context, data.get(context, data[1])) + wire.RELEASE_RQ)
    yield framed(message(1, data[1]) * 3 + wire.ABORT, [0, 5, 130, 40], 3)
    yield framed(message(1, data[1], [7] * 60), [3, 0, 255], 1)
    yield framed(message(7, data[1], [0, 0, 100, 0]), [11])
    for size, late in ((20_000, 0), (70_000, 1), (150_000, 2)):
        yield filled(size, late)
    yield framed(wire.pdu(4, b"".join(wire.pdvs(1, wire.echo_rq(), True))))
    yield framed(b"GET / HTTP/1.1\r\n")
    yield framed(wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT)))


def message(context: int, data: bytes, sizes: list[int] | None = None) -> bytes:
    """A command, and a data set where one follows."""
    items = wire.pdvs(context, wire.store_rq("1.2.3.9"), True)
    if context & 7 != 5:
        items += wire.pdvs(context, data, False, sizes or ())
    return wire.p_data(items)


def framed(stream: bytes, splits: list[int] | None = None, late: int = 0) -> bytes:
    """As target_pdu reads it, without filler."""
    splits = splits or []
    return bytes([len(splits) | late << 4, *splits]) + struct.pack("<HH", 0, 0) + stream


def filled(size: int, late: int) -> bytes:
    """An instance of about `size` bytes of pixel data, most of them filler."""
    head = wire.data_set()
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, size)
    before = wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True))
    before += wire.p_data([struct.pack(">LBB", len(head + pixels) + 2, 1, 0) + head + pixels])
    # PDUs of filler: their headers are filler too, except for the first.
    before += struct.pack(">BBLLBB", 4, 0, min(size, 39_000) + 6, min(size, 39_000) + 2, 1, 0)
    after = wire.p_data(wire.pdvs(1, b"end", False))
    filler = struct.pack("<HH", len(before), size // 4)
    return bytes([2 | late << 4, 160, 9]) + filler + before + after


def associate() -> Iterator[bytes]:
    """Requests with every item that is known, and some that are not."""
    contexts = [
        wire.context(1, wire.CT, wire.EXPLICIT, wire.IMPLICIT),
        wire.context(3, wire.VERIFICATION, wire.IMPLICIT),
        wire.context(5, "1.2.840.10008.5.1.4.31", wire.IMPLICIT),
        wire.context(4, wire.CT),
    ]
    uid = struct.pack(">H", len(wire.CT)) + wire.CT.encode()
    users = {
        "none": b"",
        "window": wire.item(0x53, struct.pack(">HH", 0, 16)),
        "role": wire.item(0x54, uid + b"\1\1"),
        "version": wire.item(0x55, b"PEER_1"),
        "extended": wire.item(0x56, uid + b"\2\0\0\0\1\0"),
        "common": wire.item(0x57, uid + b"\0\0\0\0"),
        "identity": wire.item(0x58, struct.pack(">BBH", 2, 1, 4) + b"user\0\4word"),
        "unknown": wire.item(0x5F, b"anything") + wire.item(0x99, b""),
    }
    for user in users.values():
        yield wire.associate_rq(*contexts, user=user)
    yield wire.associate_rq(*contexts, wire.item(0x77, b"x"), user=b"".join(users.values()))
    yield wire.associate_rq(version=2)
    yield wire.associate_rq(contexts[0], called=b"OTHER", application="1.2.3")


def command() -> Iterator[bytes]:
    """Requests, a response, a cancel."""
    for encoded in (wire.store_rq("1.2.3.9"), wire.echo_rq(7), wire.store_rq("1" * 65)):
        for status, most in ((0, 0), (0xA700, 16384), (0xC000, 20)):
            yield struct.pack("<HHB", status, most, 9) + b"a comment" + encoded
    for elements in ({0x100: wire.us(0xFFF)}, {0x100: wire.us(0x8001), 0x3: wire.uid("1.2")}):
        yield bytes(5) + wire.command(elements)


def head() -> Iterator[bytes]:
    """Data sets in each encoding; sequences in sequences."""
    delimited = struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    item_end = struct.pack("<HHL", 0xFFFE, 0xE00D, 0)
    sequence = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    unknown = struct.pack("<HH2sHL", 9, 0x1001, b"UN", 0, 0xFFFFFFFF)
    implicit = item + struct.pack("<HHL", 9, 0x1002, 2) + b"ab" + item_end
    nested = sequence + item + sequence + item + item_end + delimited + item_end + delimited
    nested += unknown + implicit + delimited
    for kind in (0, 1, 2):
        for flags in (0, 4, 28):
            yield bytes([kind | flags]) + wire.data_set(kind=kind, pixels=b"ab" * 9)
    whole = wire.data_set()
    cut = whole.index(struct.pack("<HH", 0x10, 0x10))
    yield b"\x05" + whole[:cut] + nested + whole[cut:]
    for text in (whole, bytes(1 << 20), whole[:cut] + nested + whole[cut:]):
        packed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        for flags in (3, 31):
            yield bytes([flags]) + (packed.copy().compress(text) + packed.copy().flush())[:2000]


def main() -> None:
    """Writes them all; what was found stays."""
    for make in (pdu, associate, command, head):
        directory = CORPUS / make.__name__
        directory.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(make()):
            (directory / f"seed-{number:02}").write_bytes(data)


if __name__ == "__main__":
    main()
