"""Data sets that are strange, and that reception takes: deflated, long-headed, in other encodings.

`instances` is for the ledgers: any of these among a study's ordinary instances. Each says in which
transfer syntax it is (`Encoded`), and CONTEXTS lists the presentation contexts that carry them.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable

from tests.support import wire

ENCAPSULATED = "1.2.840.10008.1.2.4.50"
PRIVATE = "1.2.826.0.1.3680043.8.498.99.1"

CONTEXTS = {
    wire.EXPLICIT: 1,
    wire.IMPLICIT: 3,
    wire.BIG: 5,
    wire.DEFLATED: 7,
    ENCAPSULATED: 9,
    PRIVATE: 11,
}
"""Transfer syntax → number of its presentation context."""

LONG = 100_000
"""Bytes that stand before a UID, and wait for it in the lane."""

VERY_LONG = 1_300_000
"""Bytes that stand before a UID, more than the smallest lane has (1 MiB)."""


class Encoded(bytes):
    """A data set that knows its transfer syntax."""

    syntax = wire.EXPLICIT


def encoded(data: bytes, syntax: str = wire.EXPLICIT) -> Encoded:
    made = Encoded(data)
    made.syntax = syntax
    return made


def context_of(data: bytes) -> int:
    """Returns the presentation context that a data set goes by."""
    return CONTEXTS[getattr(data, "syntax", wire.EXPLICIT)]


def contexts() -> list[bytes]:
    """Returns those of CONTEXTS, for an A-ASSOCIATE-RQ."""
    return [wire.context(number, wire.CT, syntax) for syntax, number in CONTEXTS.items()]


def deflated(data: bytes, *, level: int = 6) -> Encoded:
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    return encoded(stream.compress(data) + stream.flush(), wire.DEFLATED)


def parts(uid: str, study: str, series: str, number: int, kind: int = 1) -> list[bytes]:
    """Returns the elements of wire.data_set, one by one; the study's UID is number 7."""
    whole = wire.data_set(uid, study=study, series=series, number=number, kind=kind)
    found, at = [], 0
    while at < len(whole):
        header = struct.unpack_from((">" if kind == 2 else "<") + "HH", whole, at)
        if kind == 0:
            end = at + 8 + struct.unpack_from("<L", whole, at + 4)[0]
        else:
            end = at + 8 + struct.unpack_from((">" if kind == 2 else "<") + "H", whole, at + 6)[0]
        assert header[0] < 0x0021
        found.append(whole[at:end])
        at = end
    return found


STUDY_AT = 7

Names = tuple[str, str, str, int]
"""An instance's UID, its study's and its series', and its number."""

Form = Callable[[random.Random, str, str, str, int], Encoded]


def private(size: int, rng: random.Random, kind: int = 1) -> bytes:
    """Returns a private element of so many random bytes."""
    return wire.element(0x00091010, b"OB", rng.randbytes(size), kind)


def with_before_the_study(
    data: bytes, rng: random.Random, uid: str, study: str, series: str, number: int, kind: int = 1
) -> bytes:
    elements = parts(uid, study, series, number, kind)
    elements.insert(STUDY_AT, data)
    return b"".join(elements) + wire.element(0x7FE00010, b"OW", rng.randbytes(4000), kind)


def _deflated(rng: random.Random, *names: *Names) -> Encoded:
    return deflated(wire.data_set(names[0], study=names[1], series=names[2], number=names[3]))


def _deflated_far(rng: random.Random, *names: *Names) -> Encoded:
    """Makes a deflated data set whose UIDs are behind 64 KB of the stream: random bytes are
    deflated to more than they were.
    """
    return deflated(with_before_the_study(private(80_000, rng), rng, *names))


def _deflated_to_nothing(rng: random.Random, *names: *Names) -> Encoded:
    return deflated(
        with_before_the_study(wire.element(0x00091010, b"OB", b"x" * LONG), rng, *names)
    )


def _long_head(rng: random.Random, *names: *Names) -> Encoded:
    return encoded(with_before_the_study(private(LONG, rng), rng, *names))


def _very_long_head(rng: random.Random, *names: *Names) -> Encoded:
    return encoded(with_before_the_study(private(VERY_LONG, rng), rng, *names))


def _deflated_very_far(rng: random.Random, *names: *Names) -> Encoded:
    return deflated(with_before_the_study(private(VERY_LONG, rng), rng, *names))


def _unknown_vrs(rng: random.Random, *names: *Names) -> Encoded:
    """Puts VRs that are none before the UIDs, as DCMTK or pydicom would read them."""
    value = rng.randbytes(30)
    future = struct.pack("<HH2sHL", 0x0009, 0x1010, b"ZZ", 0, 30) + value
    short = struct.pack("<HH2sH", 0x0009, 0x1011, b"QX", 30) + value
    doubtful = struct.pack("<HH2sH", 0x0009, 0x1012, b"??", 30) + value
    return encoded(with_before_the_study(future + short + doubtful, rng, *names))


def _long_behind_the_uids(rng: random.Random, *names: *Names) -> Encoded:
    """Makes a data set with all UIDs in the first bytes; then an element that goes beyond every
    limit.
    """
    elements = parts(*names)
    uids = elements[1:3] + elements[7:9]
    return encoded(b"".join(uids) + private(700_000, rng) + elements[-1])


def _implicit(rng: random.Random, *names: *Names) -> Encoded:
    large = private(LONG, rng, 0)
    return encoded(with_before_the_study(large, rng, *names, 0), wire.IMPLICIT)


def _big(rng: random.Random, *names: *Names) -> Encoded:
    large = private(9000, rng, 2)
    return encoded(with_before_the_study(large, rng, *names, 2), wire.BIG)


def _encapsulated(rng: random.Random, *names: *Names) -> Encoded:
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OB", 0, 0xFFFFFFFF)
    pixels += struct.pack("<HHL", 0xFFFE, 0xE000, 0) + struct.pack("<HHL", 0xFFFE, 0xE000, 5000)
    pixels += rng.randbytes(5000) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    return encoded(b"".join(parts(*names)) + pixels, rng.choice((ENCAPSULATED, PRIVATE)))


def _meta_inside(rng: random.Random, *names: *Names) -> Encoded:
    """Puts File Meta Information inside the data set, as some senders do."""
    meta = wire.element(0x00020001, b"OB", b"\0\1") + wire.element(0x00020003, b"UI", b"9.9.9")
    return encoded(meta + b"".join(parts(*names)))


def _padded(rng: random.Random, *names: *Names) -> Encoded:
    elements = parts(*names)
    elements[STUDY_AT] = wire.element(0x0020000D, b"UI", names[1].encode() + b"\0 \0\0 ")
    return encoded(b"".join(elements))


def _out_of_order(rng: random.Random, *names: *Names) -> Encoded:
    elements = parts(*names)
    late = wire.element(0x00280010, b"US", b"\1\0")
    return encoded(late + b"".join(reversed(elements)) + late)


def _nested(rng: random.Random, *names: *Names) -> Encoded:
    data = wire.element(0x0020000D, b"UI", b"9.9.9")
    for _ in range(60):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF) + data
        item += struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        data = struct.pack("<HH2sHL", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item
    return encoded(with_before_the_study(data, rng, *names))


FORMS: tuple[Form, ...] = (
    _deflated,
    _deflated_far,
    _deflated_to_nothing,
    _long_head,
    _very_long_head,
    _deflated_very_far,
    _unknown_vrs,
    _long_behind_the_uids,
    _implicit,
    _big,
    _encapsulated,
    _meta_inside,
    _padded,
    _out_of_order,
    _nested,
)
"""Every one is taken by a gateway whose lanes have 1 MiB or more."""


def instances(study: str, count: int, rng: random.Random | None = None) -> dict[str, bytes]:
    """Returns SOP Instance UID → data set, of one study; the UIDs begin with the study's. Each
    form has its turn, from one that is drawn on."""
    rng = rng or random.Random(study)
    first = rng.randrange(len(FORMS))
    found: dict[str, bytes] = {}
    for number in range(count):
        uid = f"{study}.77.{number}"
        form = FORMS[(first + number) % len(FORMS)]
        found[uid] = form(rng, uid, study, f"{study}.{number % 3}", number)
    return found
