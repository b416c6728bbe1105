"""Negotiation from bytes alone: requests that are accepted, rejected, or answered by an abort."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import pdu as peer_pdu

from fastjmix.dicom.association import Accepted, Acceptor, Policy, Rejected, ae_title, is_storage
from fastjmix.errors import ProtocolError
from tests.support import wire

CT = wire.context(1, wire.CT, wire.EXPLICIT, wire.IMPLICIT)
ECHO = wire.context(3, wire.VERIFICATION, wire.IMPLICIT)


def acceptor(**changes: Any) -> Acceptor:
    values: dict[str, Any] = {
        "ae_title": "JMIX_RECEIVER",
        "accept_any_called_aet": False,
        "calling": None,
        "max_pdu": 131072,
        "enable_store": True,
        "enable_echo": True,
        **changes,
    }
    return Acceptor(Policy(**values))


def accepted(*contexts: bytes, policy: dict[str, Any] | None = None, **options: Any) -> Accepted:
    answer = acceptor(**(policy or {})).answer(wire.associate_rq(*contexts, **options))
    assert isinstance(answer, Accepted)
    return answer


def items(answer: Accepted) -> list[tuple[int, bytes]]:
    return list(wire.parse_items(answer.pdu[74:]))


def user(answer: Accepted) -> list[tuple[int, bytes]]:
    return list(wire.parse_items(dict(items(answer))[0x50]))


def test_accepts_and_repeats_the_ae_titles() -> None:
    request = wire.associate_rq(CT, ECHO, calling=b"  CT 1")
    answer = acceptor().answer(request)
    assert isinstance(answer, Accepted)
    assert (answer.called_ae, answer.calling_ae) == ("JMIX_RECEIVER", "CT 1")
    assert answer.pdu[0] == 2
    assert answer.pdu[10:42] == request[10:42]
    assert {n: (c.transfer_syntax.decode(), c.stores) for n, c in answer.contexts.items()} == {
        1: (wire.EXPLICIT, True),
        3: (wire.IMPLICIT, False),
    }
    assert answer.peer_max_pdu == 16384
    decoded = peer_pdu.A_ASSOCIATE_AC()
    decoded.decode(answer.pdu)
    assert decoded.user_information is not None
    assert decoded.user_information.maximum_length == 131072


@pytest.mark.fault("F62")
@pytest.mark.parametrize(
    ("options", "policy", "answer"),
    [
        ({"called": b"OTHER"}, {}, b"\1\1\7"),
        ({"called": b"jmix_receiver"}, {}, b"\1\1\7"),
        ({"calling": b"X"}, {"calling": frozenset({"Y"})}, b"\1\1\3"),
        ({"application": "1.2.840.10008.3.1.1.2"}, {}, b"\1\1\2"),
        ({"version": 2}, {}, b"\1\2\2"),
        ({"version": 0}, {}, b"\1\2\2"),
    ],
)
def test_rejects(options: dict[str, Any], policy: dict[str, Any], answer: bytes) -> None:
    result = acceptor(**policy).answer(wire.associate_rq(CT, **options))
    assert isinstance(result, Rejected)
    assert result.pdu == b"\x03\0\0\0\0\4\0" + answer
    assert result.why


def test_allow_list_and_any_called() -> None:
    accepted(CT, calling=b"Y", policy={"calling": frozenset({"Y"})})
    accepted(CT, called=b"ANY", policy={"accept_any_called_aet": True})


def results(answer: Accepted) -> list[tuple[int, int]]:
    return [(i[0], i[2]) for k, i in items(answer) if k == 0x21]


@pytest.mark.fault("F63")
def test_contexts_get_a_result_each() -> None:
    answer = accepted(
        wire.context(1, "1.2.840.10008.5.1.4.31", wire.IMPLICIT),  # modality worklist
        wire.context(3, "1.2.826.0.1.99", "1.2.826.0.1.98"),  # private storage, private syntax
        wire.context(5, "1.2.840.10008.5.1.4.1.1.999", wire.EXPLICIT),  # a class of next year
        wire.context(7, wire.CT),
        wire.context(9, ""),
        wire.context(9, wire.CT, wire.EXPLICIT),
        wire.context(4, wire.CT, wire.EXPLICIT),
        wire.context(9, wire.CT, wire.IMPLICIT),
    )
    assert results(answer) == [(1, 3), (3, 0), (5, 0), (7, 4), (9, 2), (9, 0), (4, 0), (9, 2)]
    assert answer.contexts[9].transfer_syntax.decode() == wire.EXPLICIT
    assert "1.2.840.10008.5.1.4.31" in answer.refused


@pytest.mark.fault("F62")
def test_no_context_at_all_is_still_an_association() -> None:
    assert accepted().contexts == {}
    many = [wire.context(n, wire.CT, wire.EXPLICIT) for n in range(1, 256, 2)]
    assert len(accepted(*many).contexts) == 128


def test_uids_may_be_padded() -> None:
    answer = accepted(wire.context(1, wire.CT + "\0", wire.EXPLICIT + "\0"))
    assert answer.contexts[1].abstract_syntax.decode() == wire.CT


def role(uid: str, scu: int, scp: int) -> bytes:
    return wire.item(0x54, struct.pack(">H", len(uid)) + uid.encode() + bytes((scu, scp)))


def test_role_selection_is_answered_for_accepted_contexts() -> None:
    asked = role(wire.CT, 1, 1) + role("1.2.840.10008.5.1.4.31", 1, 1)
    answer = accepted(CT, user=asked)
    assert [i for i in user(answer) if i[0] == 0x54] == [(0x54, role(wire.CT, 1, 0)[4:])]
    assert not [i for i in user(accepted(CT)) if i[0] == 0x54]


def test_async_window_is_one_and_one() -> None:
    answer = accepted(CT, user=wire.item(0x53, struct.pack(">HH", 0, 16)))
    assert dict(user(answer))[0x53] == b"\0\1\0\1"
    assert 0x53 not in dict(user(accepted(CT)))


def test_extended_negotiation_says_level_two() -> None:
    uid = wire.CT.encode()
    asked = wire.item(0x56, struct.pack(">H", len(uid)) + uid + b"\2\0\0\0\1\0")
    answer = dict(user(accepted(CT, user=asked)))
    assert answer[0x56] == struct.pack(">H", len(uid)) + uid + b"\2\0\0\0\0\0"
    common = wire.item(0x57, struct.pack(">H", len(uid)) + uid + b"\0\0\0\0")
    assert 0x57 not in dict(user(accepted(CT, user=common)))


def identity(kind: int, respond: int) -> bytes:
    return wire.item(0x58, struct.pack(">BBH", kind, respond, 4) + b"user" + struct.pack(">H", 0))


def test_user_identity_is_acknowledged_when_asked() -> None:
    assert dict(user(accepted(CT, user=identity(1, 1))))[0x59] == b"\0\0"
    assert 0x59 not in dict(user(accepted(CT, user=identity(1, 0))))


@pytest.mark.fault("F62")
def test_unknown_items_are_ignored() -> None:
    unknown = wire.item(0x5F, b"anything") + wire.item(0x99, b"")
    assert accepted(CT, wire.item(0x77, b"x"), user=unknown).contexts.keys() == {1}


@pytest.mark.fault("F67")
@pytest.mark.parametrize(
    ("field", "title"),
    [
        (b"CT_1".ljust(16), "CT_1"),
        (b"  CT  1 ".ljust(16), "CT  1"),
        (b"CT\0garbage12345", "CT"),
        (b"\0" * 16, ""),
        (b" " * 16, ""),
        (b"A\x1b[31mB\n".ljust(16), "A[31mB"),
        ("Gerät".encode("latin-1").ljust(16), "Gerät"),
    ],
)
def test_ae_titles(field: bytes, title: str) -> None:
    assert ae_title(field) == title


@pytest.mark.fault("S01")
def test_broken_requests_are_the_peers_fault() -> None:
    good = wire.associate_rq(CT)
    for bad in (
        good[:60],
        good[:74] + b"\x20\0\xff\xff",
        good[:74] + b"\x20\0",
        good + b"\x77",
        wire.associate_rq(CT, user=b"\x55"),
        wire.associate_rq(CT, user=b"\x55\0\0\xffcut off"),
    ):
        with pytest.raises(ProtocolError) as problem:
            acceptor().answer(bad)
        assert problem.value.reason == 6


UID_65 = b"1." * 32 + b"1"


@pytest.mark.fault("F105")
@pytest.mark.parametrize(
    "sub_item",
    [
        *(wire.item(0x55, name) for name in (b"", b"V" * 17, b"V" * 9000, b"A\0", b"M\xfcller")),
        *(wire.item(0x52, uid) for uid in (b"", UID_65, b"1.2.\xe9", b"abc")),
        *(wire.item(0x51, size) for size in (b"", b"\1\0", b"\0\0\0\1")),
        *(wire.item(0x53, window) for window in (b"", b"\0", bytes(6))),
        *(
            wire.item(0x54, one)
            for one in (b"", b"\1", b"\0\xff1", b"\0\x031.2", b"\0\x031.2\xff\xff")
        ),
        *(wire.item(0x56, one) for one in (b"", b"\1", b"\0\xff1", b"\0\x031.\xe9\1")),
        *(wire.item(0x58, one) for one in (b"", b"\1", b"\1\0\xff\xffuser", b"\x09\1")),
        wire.item(0x54, struct.pack(">H", 65) + UID_65 + b"\1\0"),
        wire.item(0x5F, b"unknown"),
    ],
)
def test_user_information_costs_no_association(sub_item: bytes) -> None:
    answer = accepted(CT, user=sub_item)
    assert results(answer) == [(1, 0)]
    decoded = peer_pdu.A_ASSOCIATE_AC()
    decoded.decode(answer.pdu)


@pytest.mark.fault("F105")
@pytest.mark.parametrize(
    ("body", "result"),
    [
        (b"", None),
        (b"\3", 2),
        (b"\3\0\0\0", 2),
        (b"\3\0\0\0\x30\0\0\x991.2", 2),
        (wire.context(3, wire.CT, wire.EXPLICIT)[4:] + b"\0", 2),
        (wire.context(3, UID_65.decode(), wire.EXPLICIT)[4:], 3),
        (wire.context(3, "1.2.\xff", wire.EXPLICIT)[4:], 3),
        (wire.context(3, wire.CT, UID_65.decode())[4:], 4),
        (wire.context(3, wire.CT, "1.2.\xff", wire.EXPLICIT)[4:], 0),
        (wire.context(3, wire.CT, wire.EXPLICIT)[4:] + wire.item(0x41, b"?"), 0),
        (b"\3\xff\xff\xff" + wire.context(3, wire.CT, wire.EXPLICIT)[8:], 0),
        (wire.context(0, wire.CT, wire.EXPLICIT)[4:], 0),
    ],
)
def test_a_presentation_context_costs_itself(body: bytes, result: int | None) -> None:
    found = dict(results(accepted(CT, wire.item(0x20, body))))
    assert found == {1: 0} | ({} if result is None else {body[0]: result})


@pytest.mark.fault("F105")
def test_reserved_bytes_of_a_request_are_not_checked() -> None:
    request = bytearray(wire.associate_rq(CT))
    request[1] = request[8] = request[9] = 0xFF
    request[42:74] = b"\xff" * 32
    request[75] = 0xFF
    answer = acceptor().answer(bytes(request))
    assert isinstance(answer, Accepted)
    assert results(answer) == [(1, 0)]


@pytest.mark.fault("S01")
@settings(deadline=None, max_examples=400)
@given(st.data())
def test_whatever_the_bytes_are_there_is_an_answer(data: st.DataObject) -> None:
    request = bytearray(wire.associate_rq(CT, ECHO, user=role(wire.CT, 1, 0) + identity(1, 1)))
    for _ in range(data.draw(st.integers(0, 6))):
        request[data.draw(st.integers(6, len(request) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(request)))
    try:
        answer = acceptor().answer(bytes(request[:cut]))
    except ProtocolError:
        return
    assert answer.pdu[0] in (2, 3)


def test_equal_requests_get_the_remembered_answer() -> None:
    one = acceptor()
    request = wire.associate_rq(CT)
    assert one.answer(request) is one.answer(bytes(bytearray(request)))
    for number in range(400):
        one.answer(wire.associate_rq(CT, calling=b"%d" % number))
    assert len(one._answers) <= 256


def test_storage_classes() -> None:
    assert is_storage(wire.CT)
    assert is_storage("1.3.12.2.1107.5.9.1")  # a vendor's private storage class
    assert not is_storage("1.2.840.10008.5.1.4.1.2.2.1")  # study root find
    assert not is_storage("1.2.840.10008.3.1.2.3.3")  # MPPS
