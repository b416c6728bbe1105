"""Messages and PDUs on a blocking socket, for the sender and the floor.

Guaranteed: a data set in memory is written without a copy; a PDU is read to its end, and no byte
behind it.
"""

from __future__ import annotations

import socket
from typing import Final

from fastjmix.dicom.dimse import p_data
from fastjmix.dicom.requests import fragments, store_rq
from fastjmix.errors import FastjmixError
from fastjmix.tools.tune.material import Item

LOOPBACK: Final = "127.0.0.1"

ANSWER_SECS: Final = 60
"""For each answer: more than a very slow disk needs for one instance."""

PDU_HEADER: Final = 6
"""Bytes before a PDU's body: type, reserved, length (PS3.8 §9.3.1)."""

Buffer = bytes | memoryview


class SenderError(FastjmixError):
    """An association of the measurement broke, or an instance was not accepted."""


def message(item: Item, context: int, number: int, max_pdu: int) -> list[Buffer]:
    """Returns a C-STORE-RQ (PS3.7 §9.3.1.1) in PDUs of at most `max_pdu` bytes, to be written.

    `number` is the Message ID.
    """
    buffers: list[Buffer] = []
    before = p_data(context, store_rq(item.sop_class, item.sop_instance, number), max_pdu)
    for header, fragment in fragments(context, memoryview(item.data), max_pdu):
        buffers += [before + header, fragment]
        before = b""
    return buffers


def write(wire: socket.socket, buffers: list[Buffer]) -> None:
    """Writes all buffers; the kernel may take less than all at once."""
    total = sum(map(len, buffers))
    taken = wire.sendmsg(buffers)
    while taken < total:
        total -= taken
        while taken >= len(buffers[0]):
            taken -= len(buffers[0])
            buffers = buffers[1:]
        buffers = [memoryview(buffers[0])[taken:], *buffers[1:]]
        taken = wire.sendmsg(buffers)


def read_pdu(wire: socket.socket, kind: int) -> bytes:
    """Returns the next PDU, header included. Raises SenderError unless its type is `kind`."""
    data = b""
    while missing := _length(data) - len(data):
        try:
            part = wire.recv(missing)
        except BlockingIOError:
            raise SenderError(f"no answer within {ANSWER_SECS} s") from None
        if not part:
            raise SenderError("the gateway closed the connection")
        data += part
    if data[0] != kind:
        raise SenderError(f"a PDU of type {data[0]} came, not {kind}")
    return data


def _length(data: bytes) -> int:
    """Returns the bytes of the PDU that begins so, as far as that is known."""
    body = int.from_bytes(data[2:PDU_HEADER], "big") if len(data) >= PDU_HEADER else 0
    return PDU_HEADER + body
