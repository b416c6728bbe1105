"""Passes actions on envelopes to the uploader, and waits for what came of them.

Guaranteed: a request of ours has a number that no other has, of another run of this process
neither; an answer goes to the request whose number it has. No wait is longer than ANSWER_SECS a
batch. An uploader that is away, or does not read, is a 503 with Retry-After; an action that it had
been sent is done when it is back, which does no harm a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final

from fastjmix.httpd.responses import HttpError
from fastjmix.ipc.actions import DATAGRAM_BYTES_MAX, IDS_MAX, ActionAnswer, ActionRequest, Kind

ANSWER_SECS: Final = 20.0
"""Seconds for a batch of IDS_MAX envelopes: each may cost a few syncs of a slow disk."""

AWAY_SECS: Final = 5
"""Retry-After: an uploader that has died is started again sooner."""

NOT_KNOWN: Final = "the uploader did not answer in time: look again"


class UploaderLink:
    """The api's end of the passage. Must be made in the loop that uses it."""

    def __init__(self, link: socket.socket | None) -> None:
        self._link = link
        self._numbers = count(time.time_ns() // 1000)
        self._waiting: dict[int, asyncio.Future[ActionAnswer]] = {}
        if link is not None:
            link.setblocking(False)
            asyncio.get_running_loop().add_reader(link, self._read)

    async def act(
        self, kind: Kind, ids: Sequence[str], by: str, why: str, upstream: str
    ) -> Mapping[str, str]:
        """Returns one result for each envelope. Raises HttpError 503 when none is known."""
        results: dict[str, str] = {}
        for batch in _batches(ids):
            try:
                results.update(await self._ask(kind, batch, by, why, upstream))
            except HttpError:
                if not results:
                    raise
                return {**dict.fromkeys(ids, NOT_KNOWN), **results}
        return results

    async def _ask(
        self, kind: Kind, ids: tuple[str, ...], by: str, why: str, upstream: str
    ) -> Mapping[str, str]:
        number = next(self._numbers)
        future: asyncio.Future[ActionAnswer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._send(ActionRequest(number, kind, ids, by, why, upstream))
            async with asyncio.timeout(ANSWER_SECS):
                answer = await future
        except TimeoutError:
            raise _away("the uploader did not answer in time; it may still do it") from None
        finally:
            del self._waiting[number]
        return answer.results

    def _send(self, request: ActionRequest) -> None:
        """Raises HttpError 503."""
        if self._link is None:
            raise _away("no uploader runs here")
        try:
            self._link.send(request.encode())
        except OSError:
            raise _away("the uploader takes nothing now") from None

    def _read(self) -> None:
        assert self._link is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram = self._link.recv(DATAGRAM_BYTES_MAX)
                answer = ActionAnswer.decode(datagram)
                future = self._waiting.get(answer.number)
                if future is not None and not future.done():
                    future.set_result(answer)

    def close(self) -> None:
        """Reads no more answers."""
        if self._link is not None:
            asyncio.get_running_loop().remove_reader(self._link)


def _batches(ids: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(ids[at : at + IDS_MAX]) for at in range(0, len(ids), IDS_MAX)]


def _away(why: str) -> HttpError:
    return HttpError(503, why, {"Retry-After": str(AWAY_SECS)})
