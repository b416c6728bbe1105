"""The one parser of DIMSE responses: every Message ID, every cut, against pynetdicom's encoder."""

from __future__ import annotations

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE

from fastjmix._core import parse_command
from fastjmix.dicom import dimse, responses
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.errors import ProtocolError


def us(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def bodies(pdus: bytes) -> list[bytes]:
    """Returns the bodies of the PDUs in a stream."""
    found = []
    while pdus:
        length = int.from_bytes(pdus[2:6], "big")
        found.append(pdus[6 : 6 + length])
        pdus = pdus[6 + length :]
    return found


def gathered(pdus: bytes) -> bytes:
    gathering = Gathering()
    *first, last = [gathering.take(body) for body in bodies(pdus)]
    assert not any(first)
    assert last is not None
    return last


@pytest.mark.fault("F113")
def test_every_message_id_is_read_from_the_response_to_it() -> None:
    uids = us(0x0800, 1) + us(0x0700, 0)
    for number in range(1, 65536):
        request = parse_command(dimse.command_set(us(0x0100, 1) + us(0x0110, number) + uids))
        answer = dimse.response(request, 0xA700, b"full")
        assert read_response(answer) == (number, 0xA700, "full")


@pytest.mark.parametrize("number", [1, 255, 256, 520, 521, 522, 0x0900, 0x0902, 65535])
@pytest.mark.parametrize("status", [0x0000, 0x0900, 0x0002, 0xB000, 0xA700])
@pytest.mark.parametrize("limit", [7, 16, 128, 16_384])
def test_responses_of_another_program_in_any_fragments(
    number: int, status: int, limit: int
) -> None:
    primitive = C_STORE()
    primitive.MessageIDBeingRespondedTo = number
    primitive.Status = status
    primitive.AffectedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    primitive.AffectedSOPInstanceUID = "1.2.3"
    message = C_STORE_RSP()
    message.primitive_to_message(primitive)
    out = io.BytesIO()
    for data in message.encode_msg(1, limit):
        for context, value in data.presentation_data_value_list:
            body = struct.pack(">LB", len(value) + 1, context) + value
            out.write(struct.pack(">BBL", 4, 0, len(body)) + body)
    assert read_response(gathered(out.getvalue())) == (number, status, "")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_response_or_a_protocol_error(data: bytes) -> None:
    for read in (read_response, Gathering().take):
        with contextlib.suppress(ProtocolError):
            read(data)


def test_every_cut_of_a_response_is_an_error_or_whole() -> None:
    whole = dimse.command_set(us(0x0120, 521) + us(0x0800, 0x0101) + us(0x0900, 0))
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            read_response(whole[:length])
    twice = struct.pack("<HHL", 0, 0x0120, 4) + bytes(4) + us(0x0900, 0)
    with pytest.raises(ProtocolError, match="lacks its Message ID"):
        read_response(twice)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_response(off: int) -> None:
    size = responses.COMMAND_MAX + off
    gathering = Gathering()
    head = struct.pack(">LBB", size // 2 + 2, 1, 1), struct.pack(">LBB", size - size // 2 + 2, 1, 3)
    assert gathering.take(head[0] + bytes(size // 2)) is None
    if off > 0:
        with pytest.raises(ProtocolError, match="longer than"):
            gathering.take(head[1] + bytes(size - size // 2))
    else:
        assert gathering.take(head[1] + bytes(size - size // 2)) == bytes(size)
