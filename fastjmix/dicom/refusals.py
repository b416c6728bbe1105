"""Says in words why a data set is refused: which UID is missing, which element cannot be followed.

Guaranteed: asked for a refused instance only, and cheap even then: no more than ELEMENTS_MAX
elements are walked. A comment fits (0000,0902) Error Comment and holds nothing of the peer's.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from fastjmix import _core

ELEMENTS_MAX: Final = 2048
"""Elements that are walked to find the one that cannot be followed: about a millisecond."""

UIDS: Final = {
    0x00080016: "SOP Class",
    0x00080018: "SOP Instance",
    0x0020000D: "Study Instance",
    0x0020000E: "Series Instance",
}
"""The UIDs that a data set must have, by tag."""

_UID_CHARS = 64
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_LITTLE, _BIG = Struct("<HH"), Struct(">HH")
_LENGTHS = {order: (Struct(order + "H"), Struct(order + "I")) for order in "<>"}


class Reason(NamedTuple):
    """A comment, and the tag of the element that is at fault (None: not known)."""

    comment: bytes
    element: int | None


def why_uids(head: bytes, kind: int) -> Reason:
    """Returns which UIDs a data set lacks, or what is wrong with the first that it has.

    `head` are the first bytes of the data set, inflated; `kind` as in `_core.read_head`.
    """
    found = _core.read_values(head, kind, set(UIDS))
    missing = [tag for tag in UIDS if not found.get(tag, b"").strip(b"\0 ")]
    if missing:
        names = ", ".join(UIDS[tag] for tag in missing)
        if len(missing) > 2:
            names = names.replace(" Instance", "").replace("SOP,", "SOP Instance,")
        return Reason(f"no {names} UID in the data set".encode(), missing[0])
    for tag, name in UIDS.items():
        uid = found[tag].strip(b"\0 ")
        if len(uid) > _UID_CHARS:
            told = f"{name} UID has {len(uid)} characters, more than {_UID_CHARS}"
            return Reason(told.encode(), tag)
        if uid.strip(b"0123456789."):
            return Reason(f"{name} UID holds more than digits and dots".encode(), tag)
    return Reason(b"a UID of the data set cannot be used", None)


def why_unreadable(head: bytes, kind: int) -> Reason:
    """Returns the top-level element that cannot be followed, with its place in the data set.

    `head` and `kind` as for `why_uids`.
    """
    found = _Walk(head).broken_at(kind)
    if found is None:
        return Reason(f"no UIDs in the first {len(head)} bytes of the data set".encode(), None)
    at, tag = found
    if tag is None:
        return Reason(f"the data set ends inside an element, at byte {at}".encode(), None)
    told = f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {at} cannot be followed"
    return Reason(told.encode(), tag)


class _Walk:
    """Steps over the elements of a data set (PS3.5 §7.1, §7.5), ELEMENTS_MAX at most."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = ELEMENTS_MAX

    def broken_at(self, kind: int) -> tuple[int, int | None] | None:
        """Returns offset and tag of the first top-level element that cannot be followed."""
        at = 0
        while at < len(self._data) and self._left:
            header = self._header(at, kind)
            if header is None:
                known = len(self._data) - at >= 4
                return at, _tag(self._data, at, kind) if known else None
            tag, behind, length, inner = header
            if length == _UNDEFINED and tag >> 16 != 0xFFFE:
                behind = self._behind_sequence(behind, inner)
            else:
                behind += length
            if tag >> 16 == 0xFFFE or not 0 <= behind <= len(self._data):
                return at, tag
            at = behind
        return None

    def _header(self, at: int, kind: int) -> tuple[int, int, int, int] | None:
        """Returns tag, offset of the value, its length, and how a sequence in it is encoded."""
        self._left = max(self._left - 1, 0)
        data, order = self._data, ">" if kind == 2 else "<"
        if len(data) - at < 8:
            return None
        tag, vr = _tag(data, at, kind), data[at + 4 : at + 6]
        short, long = _LENGTHS[order]
        if kind == 0 or tag >> 16 == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            return tag, at + 8, long.unpack_from(data, at + 4)[0], kind
        if vr not in _LONG:
            return tag, at + 8, short.unpack_from(data, at + 6)[0], kind
        if len(data) - at < 12:
            return None
        # An unknown VR of undefined length holds implicit VR little endian (PS3.5 §6.2.2).
        return tag, at + 12, long.unpack_from(data, at + 8)[0], 0 if vr == b"UN" else kind

    def _behind_sequence(self, at: int, kind: int) -> int:
        """Returns the offset behind a sequence of undefined length; -1 when it has no end here."""
        open_items: list[tuple[int, bool]] = [(kind, False)]  # of each sequence: inside an item?
        while open_items and self._left:
            kind, inside = open_items[-1]
            header = self._header(at, kind)
            if header is None:
                return -1
            tag, at, length, inner = header
            if tag == _SEQUENCE_END and not inside:
                open_items.pop()
            elif tag == (_ITEM_END if inside else _ITEM) and (inside or length == _UNDEFINED):
                open_items[-1] = kind, not inside
            elif (tag >> 16 == 0xFFFE) == inside:  # an element between items, or the wrong item
                return -1
            elif length == _UNDEFINED:
                open_items.append((inner, False))
            else:
                at += length
        return -1 if open_items else at


def _tag(data: bytes, at: int, kind: int) -> int:
    group, element = (_BIG if kind == 2 else _LITTLE).unpack_from(data, at)
    return int(group) << 16 | int(element)
