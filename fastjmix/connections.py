"""Connections of the HTTP servers: how many there may be, and what who speaks no HTTP is told.

Wants the aiohttp server behind an application. Guarantees: a connection beyond a bound (all, or one
address's) is closed before a byte of it is read; one whose peer takes nothing ends, however little
is left to send; what is no HTTP is answered in JSON, with the headers of every other answer, and
nothing of what came is repeated.

Still wrong: peers behind one proxy are one address.
"""

from __future__ import annotations

import asyncio
import http
import socket
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson
from aiohttp import web

from fastjmix import log

HEADERS: Final[Mapping[str, str]] = {
    "Server": "fastjmix",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}
"""Of every answer."""

TOLD_SECS: Final = 10.0
"""Between two log lines about refused connections: a flood of them must not become one of lines."""


class Door:
    """What a site calls for the protocol of each connection that it accepts.

    `options` are aiohttp's for a connection; `most` and `most_each` bound connections in all and
    of one address; `stall_secs` is how long a peer may take nothing of what is sent to it.
    """

    def __init__(
        self,
        server: web.Server,
        options: Mapping[str, Any],
        *,
        most: int,
        most_each: int,
        stall_secs: float,
    ) -> None:
        self._server = server
        self._options = options
        self._most = most
        self._most_each = most_each
        self._stall_millis = max(1, int(stall_secs * 1000))
        self._open: Counter[str] = Counter()
        self._refused = 0
        self._told = float("-inf")

    @property
    def connections(self) -> list[web.RequestHandler]:
        """Those that are open."""
        return self._server.connections

    def __call__(self) -> web.RequestHandler:
        """A protocol for the next connection."""
        loop = asyncio.get_running_loop()
        return _Connection(self, self._server, loop=loop, **self._options)

    def enter(self, transport: asyncio.Transport, address: str) -> bool:
        """Counts a connection in; False when there are too many."""
        if self._open.total() >= self._most or self._open[address] >= self._most_each:
            self._tell_refused(address)
            return False
        self._open[address] += 1
        found = transport.get_extra_info("socket")
        if found is not None:
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stall_millis)
        return True

    def leave(self, address: str) -> None:
        """Counts a connection out."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _tell_refused(self, address: str) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._told >= TOLD_SECS:
            lines = log.get()
            lines.warning("http_connections_refused", peer=address, count=self._refused)
            self._refused, self._told = 0, now


class _Connection(web.RequestHandler):
    """aiohttp's protocol of a connection, which has first to pass the door."""

    __slots__ = ("_address", "_door")

    def __init__(self, door: Door, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._door = door
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._door.enter(cast(asyncio.Transport, transport), address):
            self.force_close()
            cast(asyncio.Transport, transport).abort()
            return
        self._address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        if self._address is not None:
            self._door.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be parsed. aiohttp's own repeats what came."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: there can be no other")
        body = orjson.dumps({"error": http.HTTPStatus(status).phrase})
        answer = web.Response(
            status=status, body=body, headers=HEADERS, content_type="application/json"
        )
        answer.force_close()
        return answer
