"""Writes DIMSE responses: to C-STORE, C-ECHO, and any other request (PS3.7 §9, §E.1).

Requests are read in compiled code (`_core.parse_command`).

Guaranteed: a response repeats the request's UIDs, fits one write(2), and is fragmented to the
peer's maximum PDU length (PS3.8 Annex D.1).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

from fastjmix._core import Command

C_STORE_RQ: Final = 0x0001
C_ECHO_RQ: Final = 0x0030
C_CANCEL_RQ: Final = 0x0FFF
OPERATIONS: Final = {
    C_STORE_RQ: "C-STORE-RQ",
    0x0010: "C-GET-RQ",
    0x0020: "C-FIND-RQ",
    0x0021: "C-MOVE-RQ",
    C_ECHO_RQ: "C-ECHO-RQ",
    0x0100: "N-EVENT-REPORT-RQ",
    0x0110: "N-GET-RQ",
    0x0120: "N-SET-RQ",
    0x0130: "N-ACTION-RQ",
    0x0140: "N-CREATE-RQ",
    0x0150: "N-DELETE-RQ",
}
"""PS3.7 §E.1: names of requests, for the log."""

RESPONSE: Final = 0x8000
"""PS3.7 §E.1: the bit of the Command Field of a response."""

NO_DATA_SET: Final = 0x0101
"""PS3.7 §E.1: Command Data Set Type of a message without one."""

P_DATA_TF: Final = 0x04
COMMAND_LAST: Final = 0x03
COMMAND_MORE: Final = 0x01
PDV_OVERHEAD: Final = 6
"""PDV length (4), presentation context ID (1), message control header (1)."""

COMMENT_MAX: Final = 64
"""(0000,0902) Error Comment is LO: at most 64 characters (PS3.5 §6.2)."""


class Status(IntEnum):
    """Statuses that fastjmix answers (PS3.4 Table B.2-1, PS3.7 Annex C)."""

    SUCCESS = 0x0000
    INVALID_INSTANCE = 0x0117
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    NOT_AUTHORISED = 0x0124
    DUPLICATE_INVOCATION = 0x0210
    UNRECOGNISED_OPERATION = 0x0211
    MISTYPED_ARGUMENT = 0x0212
    OUT_OF_RESOURCES = 0xA700
    MISMATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000
    MISSING_UID = 0xC001
    UNREADABLE_HEAD = 0xC002
    UNSAFE_UID = 0xC003
    INTERNAL = 0xC0FF


MEANING: Final = {
    Status.SUCCESS: "stored",
    Status.INVALID_INSTANCE: "Affected SOP Instance UID is not a UID",
    Status.SOP_CLASS_NOT_SUPPORTED: "SOP class cannot be stored in this presentation context",
    Status.NOT_AUTHORISED: "this listener does not store (enable_store = false)",
    Status.DUPLICATE_INVOCATION: "Message ID is still in use",
    Status.UNRECOGNISED_OPERATION: "only C-ECHO and C-STORE are served here",
    Status.MISTYPED_ARGUMENT: "a C-STORE-RQ without a data set",
    Status.OUT_OF_RESOURCES: "storage is full or failing; send again later",
    Status.MISMATCH: "data set does not match the command's SOP class/instance",
    Status.CANNOT_UNDERSTAND: "the data set cannot be understood",
    Status.MISSING_UID: "no Study, Series or SOP Instance UID in the data set",
    Status.UNREADABLE_HEAD: "the data set's elements cannot be followed",
    Status.UNSAFE_UID: "a UID holds more than digits and dots",
    Status.INTERNAL: "fastjmix failed; see its log",
}
"""Error Comments, where a caller gives none."""

SOP_CLASS_UID: Final = 0x00080016
SOP_INSTANCE_UID: Final = 0x00080018

_ELEMENT = struct.Struct("<HHL")
_US = struct.Struct("<HHLH")
_UL = struct.Struct("<HHLL")
_AT = struct.Struct("<HHLHH")
_PDU = struct.Struct(">BBL")
_PDV = struct.Struct(">LBB")


def _text(element: int, value: bytes, pad: bytes) -> bytes:
    padded = value + pad if len(value) % 2 else value
    return _ELEMENT.pack(0, element, len(padded)) + padded


def command_set(elements: bytes) -> bytes:
    """Puts Command Group Length (0000,0000) before encoded elements."""
    return _UL.pack(0, 0, 4, len(elements)) + elements


def p_data(context: int, command: bytes, peer_max_pdu: int) -> bytes:
    """Returns a command set as P-DATA-TF PDUs within the peer's maximum length (0 = unlimited)."""
    # Fragments are of even length: DCMTK refuses others.
    step = max(((peer_max_pdu or 1 << 20) - PDV_OVERHEAD) & ~1, 2)
    pdus = []
    for start in range(0, len(command), step):
        fragment = command[start : start + step]
        last = start + step >= len(command)
        pdus.append(_PDU.pack(P_DATA_TF, 0, len(fragment) + PDV_OVERHEAD))
        pdus.append(_PDV.pack(len(fragment) + 2, context, COMMAND_LAST if last else COMMAND_MORE))
        pdus.append(fragment)
    return b"".join(pdus)


def response(
    request: Command, status: int, comment: bytes = b"", offending: int | None = None
) -> bytes:
    """Returns the command set of a response (PS3.7 §9.3.1.2, §9.3.5.2).

    `comment` becomes Error Comment (0000,0902), cut to 64 bytes; `offending` is the tag for
    Offending Element (0000,0901). Both only with a failure.
    """
    parts = []
    if request.sop_class_uid:
        parts.append(_text(0x0002, request.sop_class_uid, b"\0"))
    parts.append(_US.pack(0, 0x0100, 2, request.field | RESPONSE))
    parts.append(_US.pack(0, 0x0120, 2, max(request.message_id, 0)))
    parts.append(_US.pack(0, 0x0800, 2, NO_DATA_SET))
    parts.append(_US.pack(0, 0x0900, 2, status))
    if status:
        if offending is not None:
            parts.append(_AT.pack(0, 0x0901, 4, offending >> 16, offending & 0xFFFF))
        if comment:
            parts.append(_text(0x0902, comment[:COMMENT_MAX], b" "))
    if request.sop_instance_uid:
        parts.append(_text(0x1000, request.sop_instance_uid, b"\0"))
    return command_set(b"".join(parts))
