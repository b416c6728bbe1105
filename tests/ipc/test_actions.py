"""A datagram is decoded to what was encoded, and no other datagram is decoded."""

from __future__ import annotations

import uuid

import pytest

from fastjmix.ipc.actions import (
    DATAGRAM_BYTES_MAX,
    IDS_MAX,
    ActionAnswer,
    ActionRequest,
    Kind,
    make_pair,
)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_request_and_its_answer_cross_whole(kind: Kind) -> None:
    ids = tuple(str(uuid.uuid4()) for _ in range(IDS_MAX))
    request = ActionRequest(7, kind, ids, "somebody", "a reason")
    answer = ActionAnswer(7, dict.fromkeys(ids, "a result of a line, as it may be" * 3))
    asking, answering = make_pair()
    with asking, answering:
        asking.send(request.encode())
        assert ActionRequest.decode(answering.recv(DATAGRAM_BYTES_MAX)) == request
        answering.send(answer.encode())
        assert ActionAnswer.decode(asking.recv(DATAGRAM_BYTES_MAX)) == answer


@pytest.mark.parametrize("datagram", [b"", b"{}", b'{"number": 1, "action": "delete"}'])
def test_another_datagram_is_an_error(datagram: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        ActionRequest.decode(datagram)
