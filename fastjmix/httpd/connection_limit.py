"""Connections of the HTTP servers: how many there may be, and what who speaks no HTTP is told.

Wants the aiohttp server behind an application, and the socket that listens. Guarantees: a
connection beyond a bound (all, or one address's) is closed before a byte of it is read, and one is
counted from its accept on, a TLS handshake included, which has HANDSHAKE_SECS; one whose peer takes
nothing ends, however little is left to send; what is no HTTP is answered in JSON, with the headers
of every other answer, and nothing of what came is repeated.

Still wrong: peers behind one proxy are one address.
"""

from __future__ import annotations

import asyncio
import errno
import http
import socket
import ssl
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

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

HANDSHAKE_SECS: Final = 10.0
"""What a TLS handshake may take; so long a connection counts without having said anything."""

SHORT_SECS: Final = 1.0
"""No descriptor, or no memory, for one more connection: when to try again."""

_SHORT: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Who is let in. `most` and `most_each` bound connections in all and of one address;
    `stall_secs` is how long a peer may take nothing of what is sent to it."""

    def __init__(self, *, most: int, most_each: int, stall_secs: float) -> None:
        self._most = most
        self._most_each = most_each
        self._stall_millis = max(1, int(stall_secs * 1000))
        self._open: Counter[str] = Counter()
        self._refused = 0
        self._told = float("-inf")

    @property
    def count(self) -> int:
        """Connections that are in."""
        return self._open.total()

    def enter(self, accepted: socket.socket, address: str) -> bool:
        """Counts a connection in; False when there are too many."""
        if self._open.total() >= self._most or self._open[address] >= self._most_each:
            self._tell_refused(address)
            return False
        self._open[address] += 1
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stall_millis)
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


class DoorSite(web.BaseSite):
    """Accepts connections for a runner, through a door: aiohttp's own sites know of one only once
    its handshake is over. `options` are aiohttp's for a connection."""

    def __init__(
        self,
        runner: web.AppRunner,
        door: Door,
        options: Mapping[str, Any],
        listening: socket.socket,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(runner, ssl_context=tls)
        self._door = door
        self._options = options
        self._listening = listening
        self._tls = tls
        self._accepting: asyncio.Task[None] | None = None
        self._arriving: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Where it is reached: a URL."""
        host, port = self._listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    async def start(self) -> None:
        """Connections are accepted from now on."""
        await super().start()
        self._listening.setblocking(False)
        self._listening.listen(self._backlog)
        self._accepting = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        """No more are accepted, and handshakes end; connections are the runner's to close."""
        tasks = [*self._arriving, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()
        await super().stop()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._listening)
            except OSError as problem:
                if problem.errno in _SHORT:
                    log.get().warning("http_not_accepted", why=problem.strerror)
                    await asyncio.sleep(SHORT_SECS)
                continue  # else it was gone before it was accepted
            host = str(address[0]) if address else ""
            try:
                entered = self._door.enter(accepted, host)
            except OSError:  # it is gone already
                self._door.leave(host)
                entered = False
            if not entered:
                accepted.close()
                continue
            task = asyncio.create_task(self._arrive(accepted, host))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _arrive(self, accepted: socket.socket, host: str) -> None:
        """From the accepted socket to a connection of the server's, or to its end."""
        loop = asyncio.get_running_loop()
        server = self._runner.server
        if server is None:  # the runner is being cleaned up
            self._door.leave(host)
            accepted.close()
            return
        connection = _Connection(self._door, host, server, loop=loop, **self._options)
        timeout = HANDSHAKE_SECS if self._tls else None
        try:
            await loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._tls, ssl_handshake_timeout=timeout
            )
        except OSError as problem:  # ssl.SSLError is one, and so is a timeout
            log.get().debug("http_not_connected", peer=host, why=str(problem))
        finally:
            connection.arrived()


class _Connection(web.RequestHandler):
    """aiohttp's protocol of a connection that has passed the door."""

    __slots__ = ("_address", "_door", "_made")

    def __init__(self, door: Door, address: str, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self._door = door
        self._address: str | None = address
        self._made = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._made = True
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Called by the loop."""
        self._leave()
        super().connection_lost(exc)

    def arrived(self) -> None:
        """Its handshake is over: if it failed, nobody calls connection_lost."""
        if not self._made:
            self._leave()

    def _leave(self) -> None:
        if self._address is not None:
            self._door.leave(self._address)
            self._address = None

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
