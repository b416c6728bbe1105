"""Responses: their bytes as a peer decodes them."""

from __future__ import annotations

import pytest
from pynetdicom import dimse_messages
from pynetdicom.dsutils import decode as decode_dataset

from fastjmix import _core
from fastjmix.dicom import dimse
from fastjmix.dicom.dimse import Status
from tests.support import wire

REQUEST = _core.parse_command(wire.store_rq("1.2.345", message=7))


def test_success_repeats_both_uids() -> None:
    found = wire.parse_command(dimse.response(REQUEST, Status.SUCCESS, b"ignored", 1))
    assert found[0x0002] == wire.uid(wire.CT)
    assert found[0x1000] == wire.uid("1.2.345")
    assert (found[0x0100], found[0x0120]) == (wire.us(0x8001), wire.us(7))
    assert (found[0x0800], found[0x0900]) == (wire.us(0x0101), wire.us(0))
    assert 0x0901 not in found
    assert 0x0902 not in found


def test_failure_carries_comment_and_element() -> None:
    data = dimse.response(REQUEST, Status.MISMATCH, b"c" * 99, 0x00080018)
    found = wire.parse_command(data)
    assert found[0x0902] == b"c" * 64
    assert found[0x0901] == b"\x08\x00\x18\x00"
    from io import BytesIO

    decoded = decode_dataset(BytesIO(data), True, True)
    assert decoded.Status == 0xA900
    assert decoded.OffendingElement == 0x00080018
    assert decoded.CommandGroupLength == len(data) - 12
    assert dimse_messages.C_STORE_RSP is not None


@pytest.mark.parametrize("limit", [8, 9, 128, 201, 16384, 0])
def test_responses_fit_the_peers_maximum(limit: int) -> None:
    command = dimse.response(REQUEST, Status.OUT_OF_RESOURCES, b"x" * 64)
    pdus, at, data = dimse.p_data(5, command, limit), 0, b""
    last = 0
    while at < len(pdus):
        length = int.from_bytes(pdus[at + 2 : at + 6], "big")
        assert pdus[at] == 4
        assert not limit or length <= limit
        assert length % 2 == 0  # a fragment of odd length is no PDV to DCMTK
        assert pdus[at + 10] == 5
        last = pdus[at + 11]
        data += pdus[at + 12 : at + 6 + length]
        at += 6 + length
    assert data == command
    assert last == 3


def test_every_failure_has_a_comment_that_fits() -> None:
    assert set(dimse.MEANING) == set(Status)
    assert all(0 < len(text) <= dimse.COMMENT_MAX for text in dimse.MEANING.values())
