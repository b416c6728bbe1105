"""A datagram is decoded to what was encoded, and no other datagram is decoded."""

from __future__ import annotations

import pytest

from fastjmix.ipc.actions import make_pair
from fastjmix.ipc.requests import (
    DATAGRAM_BYTES_MAX,
    TEXT_BYTES_MAX,
    Do,
    NodeAnswer,
    NodeRequest,
)


@pytest.mark.parametrize("do", list(Do))
def test_a_request_and_its_answer_cross_whole(do: Do) -> None:
    request = NodeRequest(7, do, "somebody")
    texts = tuple("x" * (TEXT_BYTES_MAX // 100) for _ in range(100))
    answer = NodeAnswer(7, False, 3, texts, texts, texts)
    asking, answering = make_pair()
    with asking, answering:
        asking.send(request.encode())
        assert NodeRequest.decode(answering.recv(DATAGRAM_BYTES_MAX)) == request
        answering.send(answer.encode())
        assert NodeAnswer.decode(asking.recv(DATAGRAM_BYTES_MAX)) == answer


def test_texts_past_the_bounds_are_cut() -> None:
    long = tuple("é" * 5000 for _ in range(1000))
    found = NodeAnswer.decode(NodeAnswer(1, False, 1, long, ("é" * 100_000,), long).encode())
    assert found.faults == found.needs_restart == (*long[:4], "and 996 more")
    assert found.warnings == ("é" * (TEXT_BYTES_MAX // 2),)


@pytest.mark.parametrize("datagram", [b"", b"{}", b'{"id": 1, "do": "explode", "by": "me"}'])
def test_another_datagram_is_an_error(datagram: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        NodeRequest.decode(datagram)
