"""The reason of a refused data set in words: a UID that is missing, an element that is malformed.

Guaranteed: it is called for refused instances only, and takes little time: it uses what the one
reading of the data set (`_core.DataSetReader`) has kept. A comment fits (0000,0902) Error Comment
and has no text of the peer's in it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fastjmix import _core
from fastjmix._core import UID_TOLERATED_MAX

UIDS: Final = {
    0x00080016: "SOP Class",
    0x00080018: "SOP Instance",
    0x0020000D: "Study Instance",
    0x0020000E: "Series Instance",
}
"""The UIDs that a data set must have, by tag."""

_UID_CHARS = 64
_SOP_CLASS = 0x00080016


class Reason(NamedTuple):
    """A comment, and the tag of the element that is at fault (None: not known)."""

    comment: bytes
    element: int | None


def why_uids(elements: bytes, *, tolerant: bool = False) -> Reason:
    """Returns which UIDs a data set lacks, or the fault of the first one that has a fault.

    `elements` as in `_core.Head`; `tolerant` as for `_core.DataSetReader`.
    """
    found = _core.read_values(elements, 1, set(UIDS))
    missing = [tag for tag in UIDS if not found.get(tag, b"").strip(b"\0 ")]
    if missing:
        names = ", ".join(UIDS[tag] for tag in missing)
        if len(missing) > 2:
            names = names.replace(" Instance", "").replace("SOP,", "SOP Instance,")
        return Reason(f"no {names} UID in the data set".encode(), missing[0])
    for tag, name in UIDS.items():
        if fault := _fault_of(found[tag], name, tolerant and tag != _SOP_CLASS):
            return Reason(fault.encode(), tag)
    return Reason(b"a UID of the data set cannot be used", None)


def _fault_of(value: bytes, name: str, tolerant: bool) -> str:
    """Returns the fault of a UID; "" when it has none. Only `tolerant` ignores blanks before it."""
    uid = value.strip(b"\0 ") if tolerant else value.rstrip(b"\0 ")
    most = UID_TOLERATED_MAX if tolerant else _UID_CHARS
    if len(uid) > most:
        return f"{name} UID has {len(uid)} characters, more than {most}"
    if not tolerant:
        return f"{name} UID holds more than digits and dots" if uid.strip(b"0123456789.") else ""
    sound = all(32 <= one <= 126 for one in uid) and b"\\" not in uid
    return "" if sound else f"{name} UID holds a character that no UID may have"


def why_unreadable(fault: bytes, broken_at: tuple[int, int | None] | None) -> Reason:
    """Returns the top-level element that cannot be followed, with its place in the data set.

    `fault` and `broken_at` as in `_core.DataSetReader`. Without a place it returns the fault.
    """
    if broken_at is None:
        return Reason(fault, None)
    at, tag = broken_at
    if tag is None:
        return Reason(f"the data set ends inside an element, at byte {at}".encode(), None)
    comment = f"element ({tag >> 16:04X},{tag & 0xFFFF:04X}) at byte {at} cannot be followed"
    return Reason(comment.encode(), tag)


def why_malformed(fault: bytes, broken_at: tuple[int, int | None] | None) -> Reason:
    """Returns the fault of a data set that has its UIDs, and the top-level element that it is in.

    An Offending Element (PS3.7 §9.1.1) cannot name the sequences around it.
    """
    return Reason(fault, None if broken_at is None else broken_at[1])
