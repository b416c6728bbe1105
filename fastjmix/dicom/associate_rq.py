"""Reads an A-ASSOCIATE-RQ (PS3.8 §9.3.2, PS3.7 Annex D.3): the fields that are answered or logged.

Guaranteed: a request is a ProtocolError only when its items, or the sub-items of its user
information, cannot be followed, or when it has more of them than any sender needs. A presentation
context that cannot be read is refused alone. Reserved bytes, unknown items and sub-items, and
fields that are only logged, are not checked (PS3.8 §9.3.1).

    bytes  1 type, 3-6 length, 7-8 protocol version, 11-26 called AE title, 27-42 calling AE title,
           75- items: 10H application context, 20H presentation context, 50H user information
    item   1 type, 2 reserved, 3-4 length of what follows

pynetdicom's decoder is not used: it refuses the whole request for a name of 17 characters.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from fastjmix.errors import ProtocolError

ASSOCIATE_RQ_MAX: Final = 1 << 18
"""Bytes of an A-ASSOCIATE-RQ. 128 contexts of 60 transfer syntaxes each are about 200 KB."""

CONTEXTS_MAX: Final = 256
"""Presentation contexts of a request. Their IDs are odd and one byte (PS3.8 §9.3.2.2): 128 make
sense, and those that repeat an ID are answered too."""

SYNTAXES_MAX: Final = 1024
"""Transfer syntaxes of one presentation context; DICOM defines about 60."""

ITEMS_MAX: Final = 8192
"""Items of a request, and items within them. Each takes about a µs, while no other peer is
served."""

IMPLEMENTATION_CHARS_MAX: Final = 64
"""Characters of the peer's implementation class UID and of its version name that are kept. The name
has 16 at most (PS3.7 §D.3.3.2.3), and senders are known to write more."""

_FIXED: Final = 74
_ITEM: Final = struct.Struct(">BBH")
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
_MAXIMUM_LENGTH, _CLASS_UID, _WINDOW, _ROLE, _VERSION_NAME, _EXTENDED, _IDENTITY = (
    0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x58,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Proposal:
    """A presentation context as proposed. `whole`: all of its sub-items could be read."""

    number: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    whole: bool


@dataclass(slots=True)
class AssociateRq:
    """An A-ASSOCIATE-RQ. UIDs are a peer's text up to the first NUL, without blanks around it.

    `max_length` is 0 for unlimited, or where there is none. `roles` has the proposed SCU role of
    each SOP class, `extended` the SOP classes of extended negotiation. Where one class
    has several, the first counts.
    """

    protocol_version: int
    application_context: str = ""
    contexts: list[Proposal] = field(default_factory=list)
    max_length: int = 0
    implementation_uid: str = ""
    implementation: str = ""
    window: bool = False
    roles: dict[str, int] = field(default_factory=dict)
    extended: dict[str, None] = field(default_factory=dict)
    wants_identity: bool = False


def read_associate_rq(request: bytes) -> AssociateRq:
    """Reads a whole A-ASSOCIATE-RQ PDU. Raises ProtocolError (→ A-ABORT)."""
    if len(request) < _FIXED:
        raise ProtocolError(f"an A-ASSOCIATE-RQ of fewer than {_FIXED} bytes", 6)
    found = AssociateRq(int.from_bytes(request[6:8], "big"))
    items, why = _items(request[_FIXED:], ITEMS_MAX)
    if why:
        raise ProtocolError(f"an A-ASSOCIATE-RQ: {why}", 6)
    left = ITEMS_MAX - len(items)
    for kind, body in items:
        if kind == _PRESENTATION_CONTEXT:
            left -= _add_context(found, body, left)
        elif kind == _USER_INFORMATION:
            inner, why = _items(body, left)
            if why:
                raise ProtocolError(f"user information: {why}", 6)
            left -= len(inner)
            for sub_kind, value in inner:
                _add_user_item(found, sub_kind, value)
        elif kind == _APPLICATION_CONTEXT and not found.application_context:
            found.application_context = _uid(body)
    return found


def _items(data: bytes, most: int) -> tuple[list[tuple[int, bytes]], str]:
    """Returns type and value of each item that fits, and why the rest cannot be read ("": none).

    Raises ProtocolError for more than `most` items.
    """
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(data):
        if len(data) - at < _ITEM.size:
            return found, "an item header is cut off"
        kind, _, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length > len(data) - at:
            return found, f"item {kind:02X}H is longer than its parent"
        if len(found) == most:
            raise ProtocolError(f"more than {ITEMS_MAX} items in an A-ASSOCIATE-RQ", 6)
        found.append((kind, data[at : at + length]))
        at += length
    return found, ""


def _add_context(found: AssociateRq, body: bytes, left: int) -> int:
    """Reads a presentation context (PS3.8 Table 9-13): ID, three reserved bytes, sub-items. Returns
    how many sub-items it has."""
    if not body:
        return 0  # without an ID it cannot be answered
    items, why = _items(body[4:], left)
    abstract = [_uid(value) for kind, value in items if kind == _ABSTRACT_SYNTAX]
    syntaxes = tuple(_uid(value) for kind, value in items if kind == _TRANSFER_SYNTAX)
    if len(syntaxes) > SYNTAXES_MAX:
        raise ProtocolError(f"more than {SYNTAXES_MAX} transfer syntaxes of one context", 6)
    if len(found.contexts) == CONTEXTS_MAX:
        raise ProtocolError(f"more than {CONTEXTS_MAX} presentation contexts", 6)
    whole = not why and len(body) >= 4
    found.contexts.append(Proposal(body[0], abstract[0] if abstract else "", syntaxes, whole))
    return len(items)


def _add_user_item(found: AssociateRq, kind: int, value: bytes) -> None:
    """Reads a sub-item of the user information (PS3.7 Annex D.3.3). One that is malformed is
    ignored."""
    if kind == _MAXIMUM_LENGTH and len(value) >= 4:
        found.max_length = found.max_length or int.from_bytes(value[:4], "big")
    elif kind == _CLASS_UID:
        text = _uid(value)[:IMPLEMENTATION_CHARS_MAX]
        found.implementation_uid = found.implementation_uid or text
    elif kind == _VERSION_NAME:
        text = value.strip(b"\0 ").decode("latin-1")[:IMPLEMENTATION_CHARS_MAX]
        found.implementation = found.implementation or text
    elif kind == _WINDOW:
        found.window = True
    elif kind == _IDENTITY and len(value) > 1:
        found.wants_identity = found.wants_identity or value[1] != 0
    elif kind in (_ROLE, _EXTENDED) and len(value) >= 2:
        size = int.from_bytes(value[:2], "big")
        uid, rest = _uid(value[2 : 2 + size]), value[2 + size :]
        if kind == _ROLE and len(rest) >= 2:
            found.roles.setdefault(uid, int(rest[0] != 0))
        elif kind == _EXTENDED and len(value) >= 2 + size:
            found.extended.setdefault(uid)


def _uid(value: bytes) -> str:
    return value.partition(b"\0")[0].strip(b" ").decode("latin-1")
