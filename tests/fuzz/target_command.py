"""Any bytes are the command set that the slow twin reads, or a ValueError; each has a response.

The response to a command set, for any status, comment and maximum PDU length of the peer, is a
well-formed command set that repeats the request's UIDs and Message ID, in PDUs no longer than that.

An input is: the status (2 bytes), the peer's maximum PDU length (2 bytes), the length of the
comment (1 byte), the comment, the command set.
"""

from __future__ import annotations

import struct

from fastjmix import _core
from fastjmix.dicom import dimse
from tests import reference
from tests.fuzz.sanitizer import exact

NAMES = ("field", "message_id", "data_set_type", "sop_class_uid", "sop_instance_uid")


def one(data: bytes) -> None:
    """One input."""
    if len(data) < 5:
        return
    status, peer_max, length = struct.unpack_from("<HHB", data)
    comment, encoded = data[5 : 5 + length], data[5 + length :]
    try:
        request = _core.parse_command(exact(encoded))
    except ValueError:
        request = None
    try:
        expected = reference.command(encoded)
    except ValueError:
        expected = None
    found = request and {name: getattr(request, name) for name in NAMES}
    assert found == expected, (found, expected)
    if request is not None:
        respond(request, status, comment, peer_max)


def respond(request: _core.Command, status: int, comment: bytes, peer_max: int) -> None:
    """The response to what was read, taken apart again."""
    answer = dimse.response(request, status, comment, 0x00080018)
    length = struct.unpack_from("<HHLL", answer)[3]
    assert length == len(answer) - 12
    elements = reference.elements(answer)
    assert [number for number, _ in elements] == sorted({number for number, _ in elements})
    assert all(len(value) % 2 == 0 for _, value in elements)
    shown = dict(elements)
    assert shown.get(0x0002, b"").rstrip(b"\0 ") == request.sop_class_uid
    assert shown.get(0x1000, b"").rstrip(b"\0 ") == request.sop_instance_uid
    assert shown[0x0100] == struct.pack("<H", request.field | 0x8000)
    assert shown[0x0120] == struct.pack("<H", max(request.message_id, 0))
    assert shown[0x0900] == struct.pack("<H", status)
    assert len(shown.get(0x0902, b"")) <= 64
    sent = dimse.p_data(1, answer, peer_max)
    assert b"".join(fragments(sent, max(peer_max or 1 << 20, 8))) == answer


def fragments(sent: bytes, most: int) -> list[bytes]:
    """Returns what P-DATA-TF PDUs carry; each is within `most`, the last flag on the last."""
    parts, at = [], 0
    while at < len(sent):
        kind, _, length, size, context, control = struct.unpack_from(">BBLLBB", sent, at)
        assert (kind, context, size) == (4, 1, length - 4)
        assert length <= most
        parts.append(sent[at + 12 : at + 6 + length])
        at += 6 + length
        assert control == (3 if at == len(sent) else 1)
    return parts
