"""Any bytes after "A-ASSOCIATE-RQ" have one answer: accepted, rejected, or the peer's own fault.

Accepted contexts were proposed, once; every length in the answer adds up; AE titles come back byte
for byte; the same bytes have the same answer. An input is the body of the PDU, behind its header.
"""

from __future__ import annotations

import struct

from fastjmix.dicom.association import ACCEPTANCE, Accepted, Acceptor, Policy, Rejected
from fastjmix.errors import ProtocolError
from tests.support import wire

POLICY = Policy("JMIX_RECEIVER", False, None, 131072, True, True)
_acceptor = Acceptor(POLICY)


def one(data: bytes) -> None:
    """One input."""
    request = wire.pdu(0x01, data)
    answer = answer_of(_acceptor, request)
    if isinstance(answer, Accepted):
        accepted(answer, request)
    elif isinstance(answer, Rejected):
        assert answer.pdu[:6] == b"\x03\0\0\0\0\x04"
        assert len(answer.pdu) == 10
        assert answer.why
    if len(data) % 8 == 0:
        assert answer_of(Acceptor(POLICY), request) == answer


def answer_of(acceptor: Acceptor, request: bytes) -> Accepted | Rejected | str:
    """The answer, or what the peer did wrong."""
    try:
        return acceptor.answer(request)
    except ProtocolError as fault:
        return fault.message


def accepted(answer: Accepted, request: bytes) -> None:
    """An A-ASSOCIATE-AC, taken apart by plain struct calls."""
    pdu = answer.pdu
    assert struct.unpack_from(">BBL", pdu) == (2, 0, len(pdu) - 6)
    assert pdu[10:42] == request[10:42]
    items = whole(pdu[74:])
    assert [kind for kind, _ in items] == [0x10, *[0x21] * (len(items) - 2), 0x50]
    whole(items[-1][1])
    proposed = [body for kind, body in wire.parse_items(request[74:]) if kind == 0x20 and body]
    shown = [body for kind, body in items if kind == 0x21]
    assert [body[0] for body in shown] == [body[0] for body in proposed]
    taken = [body[0] for body in shown if body[2] == ACCEPTANCE]
    assert sorted(taken) == sorted(answer.contexts)
    for number, context in answer.contexts.items():
        assert any(context.abstract_syntax in body for body in proposed if body[0] == number)
        assert any(context.transfer_syntax in body for body in proposed if body[0] == number)


def whole(data: bytes) -> list[tuple[int, bytes]]:
    """Items that fill their parent exactly."""
    items = list(wire.parse_items(data))
    assert sum(4 + len(body) for _, body in items) == len(data)
    return items
