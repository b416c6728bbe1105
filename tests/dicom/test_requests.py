"""dicom/requests.py: messages of a requestor, read by pynetdicom."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dsutils import decode
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification
from pynetdicom.presentation import build_context

from fastjmix.dicom import requests

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
IMPLICIT = "1.2.840.10008.1.2"
PAIRS = ((CT, EXPLICIT), (CT, IMPLICIT), (requests.VERIFICATION, IMPLICIT))


def command(encoded: bytes) -> Any:
    return decode(io.BytesIO(encoded), True, True)


def test_an_association_is_asked_for_with_a_context_for_each_pair() -> None:
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(requests.associate_rq(PAIRS, "THEM", "US", 4096))
    asked: Any = pdu.to_primitive()
    contexts = asked.presentation_context_definition_list
    assert [one.context_id for one in contexts] == [1, 3, 5]
    assert tuple((one.abstract_syntax, one.transfer_syntax[0]) for one in contexts) == PAIRS
    assert (asked.called_ae_title, asked.calling_ae_title) == ("THEM", "US")
    assert asked.maximum_length_received == 4096


def answer(limit: int, *results: tuple[int, int, str]) -> bytes:
    """Returns the body of an A-ASSOCIATE-AC: (context ID, result, transfer syntax) each."""
    primitive: Any = A_ASSOCIATE()
    primitive.application_context_name = requests.APPLICATION_CONTEXT
    primitive.called_ae_title = primitive.calling_ae_title = "US"
    contexts = []
    for number, result, syntax in results:
        context = build_context(CT, syntax)
        context.context_id, context.result = number, result
        contexts.append(context)
    primitive.presentation_context_definition_results_list = contexts
    length = MaximumLengthNotification()
    length.maximum_length_received = limit
    primitive.user_information = [length]
    primitive.result, primitive.result_source = 0, 1
    pdu = A_ASSOCIATE_AC()
    pdu.from_primitive(primitive)
    return bytes(pdu.encode())[6:]


@pytest.mark.parametrize(
    ("announced", "used"), [(0, requests.UNLIMITED_PDU), (1, requests.SMALLEST_PDU), (4096, 4096)]
)
def test_what_was_accepted_is_known_by_its_pair(announced: int, used: int) -> None:
    body = answer(announced, (1, 0, EXPLICIT), (3, 4, IMPLICIT), (99, 0, IMPLICIT))
    read = requests.accepted(body, PAIRS)
    assert (read.contexts, read.max_pdu, read.announced) == ({(CT, EXPLICIT): 1}, used, announced)
    assert (read.implementation_uid, read.implementation_version) == ("", "")


def test_another_transfer_syntax_than_the_asked_one_is_not_accepted() -> None:
    assert requests.accepted(answer(0, (1, 0, IMPLICIT)), PAIRS)[0] == {}


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34"])
def test_command_sets_are_read_by_pynetdicom(uid: str) -> None:
    stored = command(requests.store_rq(CT, uid, 65535))
    names = {element.keyword for element in stored}
    assert {f"{name}" for name in C_STORE_RQ().command_set.dir()} - names <= {
        "MoveOriginatorApplicationEntityTitle",
        "MoveOriginatorMessageID",
    }
    assert (stored.AffectedSOPClassUID, stored.AffectedSOPInstanceUID) == (CT, uid)
    assert (stored.MessageID, stored.CommandDataSetType, stored.Priority) == (65535, 1, 0)
    echoed = command(requests.echo_rq(7))
    assert {element.keyword for element in echoed} == set(C_ECHO_RQ().command_set.dir())
    assert (echoed.MessageID, echoed.CommandField) == (7, 0x0030)


@given(st.binary(max_size=5000), st.integers(requests.SMALLEST_PDU, 4096))
def test_fragments_are_the_data_set(data: bytes, max_pdu: int) -> None:
    whole, ends = b"", []
    for header, part in requests.fragments(1, memoryview(data), max_pdu):
        pdu = P_DATA_TF()
        pdu.decode(header + part)
        assert pdu.pdu_length <= max_pdu
        (item,) = pdu.presentation_data_value_items
        value = item.presentation_data_value
        assert value is not None
        control, fragment = value[0], value[1:]
        assert item.presentation_context_id == 1
        ends.append(bool(control & 2))
        assert not control & 1
        whole += fragment
    assert whole == data
    assert ends == [False] * (len(ends) - 1) + [True]


def test_message_ids_are_1_to_65535() -> None:
    assert [requests.message_id(n) for n in (0, 65534, 65535)] == [1, 65535, 1]


def test_a_release_is_ten_bytes() -> None:
    kinds = (requests.A_RELEASE_RQ_TYPE, requests.A_RELEASE_RP_TYPE)
    for kind, pdu in zip(kinds, (requests.RELEASE_RQ, requests.RELEASE_RP), strict=True):
        assert struct.unpack(">BBLL", pdu) == (kind, 0, 4, 0)
