"""Reads DIMSE responses as a requestor (PS3.7 §9.3, §E.1): from P-DATA-TF to status.

`fastjmix send` and the sender of `fastjmix tune` use it.

Guaranteed: elements are stepped over by their lengths, so that no value is taken for an element. A
command set may come in any number of PDVs and PDUs (PS3.8 Annex E). Only ProtocolError is raised.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from fastjmix.dicom.dimse import PDV_OVERHEAD
from fastjmix.errors import ProtocolError

COMMAND_MAX: Final = 1 << 20
"""Bytes of one response, which is held in memory. No command set is longer."""

_ELEMENT: Final = struct.Struct("<HHL")
_MESSAGE: Final = 0x0120
_STATUS: Final = 0x0900
_COMMENT: Final = 0x0902


class Response(NamedTuple):
    """Message ID Being Responded To (0000,0120), Status (0000,0900), Error Comment (0000,0902)."""

    message: int
    status: int
    comment: str


def read_response(command: bytes) -> Response:
    """Reads a response's command set: implicit VR little endian (PS3.7 §6.3.1)."""
    found: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if len(command) - at < _ELEMENT.size:
            raise ProtocolError("a response ends inside an element")
        group, element, length = _ELEMENT.unpack_from(command, at)
        at += _ELEMENT.size + length
        if at > len(command):
            raise ProtocolError("a response ends inside an element")
        if group == 0:
            found[element] = command[at - length : at]
    message, status = found.get(_MESSAGE, b""), found.get(_STATUS, b"")
    if len(message) != 2 or len(status) != 2:
        raise ProtocolError("a response lacks its Message ID or its Status")
    comment = found.get(_COMMENT, b"").decode("latin-1").strip(" \0")
    return Response(int.from_bytes(message, "little"), int.from_bytes(status, "little"), comment)


class Gathering:
    """A command set that arrives in the bodies of P-DATA-TF PDUs (PS3.8 §9.3.5, Annex E)."""

    def __init__(self) -> None:
        self._data = b""

    def take(self, body: bytes) -> bytes | None:
        """Takes the body of the next PDU; returns the command set when it is whole."""
        at = 0
        while at < len(body):
            if len(body) - at < PDV_OVERHEAD:
                raise ProtocolError("a PDU ends inside a PDV's head")
            length = int.from_bytes(body[at : at + 4], "big")
            end = at + 4 + length
            if length < 2 or end > len(body):
                raise ProtocolError("a PDV is longer than its PDU")
            control = body[at + 5]
            if not control & 1:
                raise ProtocolError("a data set came where a response was expected")
            self._data += body[at + PDV_OVERHEAD : end]
            if len(self._data) > COMMAND_MAX:
                raise ProtocolError(f"a response is longer than {COMMAND_MAX} bytes")
            if control & 2:
                return self._data
            at = end
        return None
