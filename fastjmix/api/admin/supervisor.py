"""Passes what a person asks of the node itself to the supervisor, and waits for what came of it.

Guaranteed: a request of ours has a number that no other has, of another run of this process
neither; an answer goes to the request whose number it has. No wait is longer than ANSWER_SECS. A
supervisor that does not answer is a 503 with Retry-After; it may still do what it was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from itertools import count
from typing import Final

from fastjmix.httpd.responses import HttpError
from fastjmix.ipc.requests import DATAGRAM_BYTES_MAX, Do, NodeAnswer, NodeRequest

ANSWER_SECS: Final = 50.0
"""Seconds until an answer: two reloads, one behind the other, with a disk that is slow. It is less
than a command waits (control/client.py)."""

RETRY_SECS: Final = 5


class SupervisorLink:
    """The api's end of the passage. Must be made in the loop that uses it."""

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link
        self._numbers = count(time.time_ns() // 1000)
        self._waiting: dict[int, asyncio.Future[NodeAnswer]] = {}
        if link is not None:
            asyncio.get_running_loop().add_reader(link, self._read)

    async def ask(self, do: Do, by: str) -> NodeAnswer:
        """Returns the answer. Raises HttpError 503 when there is none."""
        number = next(self._numbers)
        future: asyncio.Future[NodeAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send(NodeRequest(number, do, by))
            async with asyncio.timeout(ANSWER_SECS):
                return await future
        except TimeoutError:
            raise _away("the supervisor did not answer in time; it may still do it") from None
        finally:
            del self._waiting[number]

    def _send(self, request: NodeRequest) -> None:
        """Raises HttpError 503."""
        if self._link is None:
            raise _away("no supervisor runs here")
        try:
            self._link.send(request.encode())
        except OSError:
            raise _away("the supervisor takes nothing now") from None

    def _read(self) -> None:
        assert self._link is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                answer = NodeAnswer.decode(self._link.recv(DATAGRAM_BYTES_MAX))
                future = self._waiting.get(answer.id)
                if future is not None and not future.done():
                    future.set_result(answer)

    def close(self) -> None:
        """Reads no more answers."""
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)


def _away(why: str) -> HttpError:
    return HttpError(503, why, {"Retry-After": str(RETRY_SECS)})
