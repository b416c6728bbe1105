"""Sends the status each second to those who listen, as server-sent events (HTML §9.2).

Guaranteed: the status is made once a second for all listeners, and not at all without one. A
listening socket has LISTENERS_MAX listeners at most, further ones get 503: those of the network
take no place of the local socket's. One that takes an event slowly gets the latest when it has, and
none in between; one that takes nothing for WRITE_STALL_SECS is ended. A status that cannot be made
ends all, and they come again. The end of the process ends all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
from aiohttp import web

from fastjmix import log
from fastjmix.control.node_status import NodeStatus
from fastjmix.httpd import limits
from fastjmix.httpd.sending import connection_errors
from fastjmix.httpd.slots import Slots

EVERY_SECS: Final = 1.0

LISTENERS_MAX: Final = 32
"""A wall of screens; each takes some 30 KB a second."""

HEADERS: Final = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "X-Accel-Buffering": "no",  # nginx would keep events back
}

RETRY: Final = b"retry: 2000\n\n"
"""How long a browser waits before it connects again, in milliseconds."""


class Places(Slots):
    """The places for those who listen at one listening socket, until `end` is called."""

    def __init__(self) -> None:
        super().__init__(LISTENERS_MAX, "listeners")
        self.ended = False

    def end(self) -> None:
        """Ends each of them at its next event: they come again, with new credentials."""
        self.ended = True


class Feed:
    """The listeners of one process. `status` makes the object that they get."""

    def __init__(
        self, status: Callable[[], Awaitable[NodeStatus]], stopping: asyncio.Event
    ) -> None:
        self._status = status
        self._stopping = stopping
        self._changed = asyncio.Condition()
        self._number = 0
        self._latest = b""
        self._listeners = 0
        self._work: asyncio.Task[None] | None = None

    async def serve(self, request: web.Request, places: Places) -> web.StreamResponse:
        """Sends events until the client goes, or `places` or the process ends. Raises HttpError
        503."""
        with places.take():
            response = web.StreamResponse(headers=HEADERS)
            self._join()
            try:
                with connection_errors():
                    await self._send(request, response, places)
            finally:
                self._leave()
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, places: Places
    ) -> None:
        await response.prepare(request)
        await response.write(RETRY)
        seen = 0
        while (event := await self._after(seen)) is not None and not places.ended:
            seen, data = event
            async with asyncio.timeout(limits.WRITE_STALL_SECS):
                await response.write(data)

    async def _after(self, seen: int) -> tuple[int, bytes] | None:
        """Returns the latest event and its number, when it is another; None: there is no more."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._number > seen or self._over)
            return None if self._over else (self._number, self._latest)

    @property
    def _over(self) -> bool:
        return self._work is None or self._stopping.is_set()

    def _join(self) -> None:
        self._listeners += 1
        if self._work is None:
            self._work = asyncio.create_task(self._make())

    def _leave(self) -> None:
        self._listeners -= 1

    async def _make(self) -> None:
        """Makes an event each second while somebody listens, and a last one at the end."""
        try:
            while self._listeners and not self._stopping.is_set():
                text = orjson.dumps(await self._status())
                await self._publish(b"event: status\ndata: " + text + b"\n\n")
                await _at_most(self._stopping.wait(), EVERY_SECS)
        except Exception as problem:
            log.get().error("http_handler_failed", exc_info=problem)
        finally:
            self._work = None
            async with self._changed:
                self._changed.notify_all()

    async def _publish(self, event: bytes) -> None:
        async with self._changed:
            self._number, self._latest = self._number + 1, event
            self._changed.notify_all()


async def _at_most(waiting: Awaitable[object], secs: float) -> None:
    """Waits for something, but no longer than this."""
    try:
        async with asyncio.timeout(secs):
            await waiting
    except TimeoutError:
        pass
