"""A person's request reaches the supervisor once, and each answer its request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from fastjmix.api.admin import supervisor
from fastjmix.api.admin.supervisor import SupervisorLink
from fastjmix.httpd.responses import HttpError
from fastjmix.ipc.actions import make_pair
from fastjmix.ipc.requests import DATAGRAM_BYTES_MAX, Do, NodeAnswer, NodeRequest

Ends = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    asking, answering = make_pair()
    with asking, answering:
        yield asking, answering


async def asked(answering: socket.socket) -> NodeRequest:
    datagram = await asyncio.get_running_loop().sock_recv(answering, DATAGRAM_BYTES_MAX)
    return NodeRequest.decode(datagram)


def test_each_answer_goes_to_its_question(ends: Ends) -> None:
    async def ask() -> None:
        link = SupervisorLink(ends[0])
        tasks = [asyncio.create_task(link.ask(do, "me")) for do in (Do.RELOAD, Do.DRAIN)]
        first, second = await asked(ends[1]), await asked(ends[1])
        assert (first.do, second.do) == (Do.RELOAD, Do.DRAIN)
        ends[1].send(NodeAnswer(12345, True, 9).encode())  # of another run of this process
        ends[1].send(NodeAnswer(second.id, True, 2).encode())
        ends[1].send(NodeAnswer(first.id, False, 3, ("a fault",)).encode())
        answers = await asyncio.gather(*tasks)
        assert [one.generation for one in answers] == [3, 2]
        assert answers[0].faults == ("a fault",)
        link.close()

    asyncio.run(ask())


def test_a_supervisor_that_does_not_answer(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ANSWER_SECS", 0.05)

    async def ask(link: socket.socket | None) -> HttpError:
        with pytest.raises(HttpError) as caught:
            await SupervisorLink(link).ask(Do.RELOAD, "me")
        return caught.value

    assert asyncio.run(ask(None)).status == 503
    silent = asyncio.run(ask(ends[0]))
    assert (silent.status, "may still do it" in silent.message) == (503, True)
    ends[1].close()
    assert "takes nothing" in asyncio.run(ask(ends[0])).message
