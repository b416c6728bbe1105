"""Any bytes have the head that the slow twin sees, none yet, or none at all: nothing else happens.
So with the values of the elements that are wanted.

The whole data set, and any split of it, shows whatever a longer piece shows. `describe` never
raises.

An input is: byte 0, the encoding (bits 0-1: implicit, explicit, big endian, deflated), whether it
is complete (bit 2), whether it is described (bits 3 and 4, both), how it is split (bits 5 to 7);
the data set.
"""

from __future__ import annotations

from fastjmix import _core
from fastjmix.dicom.dataset import WANTED, describe
from fastjmix.dicom.syntaxes import DEFLATED, EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE
from tests import reference
from tests.fuzz.sanitizer import exact

SYNTAXES = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED)
NAMES = (*reference.FIELDS.values(), "length")


def one(data: bytes) -> None:
    """One input."""
    if not data:
        return
    kind, complete, described = data[0] & 3, bool(data[0] & 4), data[0] & 24 == 24
    head = data[1:]
    if described:
        describe(head, SYNTAXES[kind])
    split(head, kind, complete, (data[0] >> 5) * 3 + 1)
    if kind == 3:
        return
    values = _core.read_values(exact(head), kind, WANTED)
    assert values == reference.values(head, kind, WANTED)
    found = read(head, kind, complete)
    expected: dict[str, object] | bool | None
    try:
        expected = reference.head(head, kind, complete)
    except ValueError:
        expected = False
    assert found == expected, (found, expected)
    if found and not complete:
        assert read(head + b"\0", kind, False) == found


def split(head: bytes, kind: int, complete: bool, size: int) -> None:
    """Feeds it in parts: the reader says of it what the slow twin says of the whole."""
    reader = _core.DataSetReader(kind)
    for at in range(0, len(head), size):
        reader.feed(exact(head[at : at + size]))
    if complete:
        reader.end()
    expected = reference.deflated(head, complete)
    if kind != 3:
        expected = reference.Reading(head, kind, complete)
    assert bool(reader.fault) == expected.fault, (reader.fault, expected.fault)
    assert len(reader.fault) <= 64
    assert reader.found == (expected.head is not None)
    if reader.found:
        found = reader.head()
        assert {name: getattr(found, name) for name in NAMES} == expected.head


def read(head: bytes, kind: int, complete: bool) -> dict[str, object] | bool | None:
    """`_core.read_head` as a dictionary; False for what is not a data set."""
    try:
        found = _core.read_head(exact(head), kind, complete)
    except ValueError:
        return False
    return None if found is None else {name: getattr(found, name) for name in NAMES}
