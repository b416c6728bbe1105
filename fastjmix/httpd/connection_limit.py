"""Limits the connections of an HTTP server, and replies to clients that do not speak HTTP.

Wants the aiohttp server behind an application, and the socket that listens.
Guaranteed: a connection beyond a limit (of all, or of one address's) is closed before a byte of it
is read. A connection is counted from its accept on, with its TLS handshake, which has
HANDSHAKE_SECS. One whose peer takes nothing ends, however little is left to send. Bytes that are
not HTTP get a reply in JSON, with the headers of every other response, and none of them is
repeated.

A peer behind a proxy counts with its own address where the proxy names it (proxy_protocol_from);
behind any other all count as one.
"""

from __future__ import annotations

import asyncio
import errno
import http
import socket
import ssl
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from fastjmix import log
from fastjmix.httpd.responses import HEADERS
from fastjmix.transport import proxy_header
from fastjmix.transport.proxy_header import HEADER_SECS, InvalidHeader, Network, is_trusted

TOLD_SECS: Final = 10.0
"""Between two log lines about refused connections: a flood of them must not fill the log."""

HANDSHAKE_SECS: Final = 10.0
"""For a TLS handshake; so long a connection counts without having sent a request."""

RETRY_SECS: Final = 1.0
"""Between two tries to accept when no descriptor, or no memory, is left for another connection."""

_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class ConnectionLimit:
    """The count of connections, and its limits.

    `most` and `most_each` limit connections in all and of one address; `stall_secs` is how long a
    peer may take nothing of a response.
    """

    def __init__(self, *, most: int, most_each: int, stall_secs: float) -> None:
        self._most = most
        self._most_each = most_each
        self._stall_millis = max(1, int(stall_secs * 1000))
        self._open: Counter[str] = Counter()
        self._refused = 0
        self._logged_at = float("-inf")

    @property
    def count(self) -> int:
        """Returns how many connections are open."""
        return self._open.total()

    def add(self, accepted: socket.socket, address: str, *, is_proxy: bool = False) -> bool:
        """Counts a connection. Returns False when there are too many; a proxy's own address may
        have as many as all. Raises OSError (it is gone, and counted).
        """
        most_each = self._most if is_proxy else self._most_each
        if self._open.total() >= self._most or self._open[address] >= most_each:
            self._log_refused(address)
            return False
        self._open[address] += 1
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._stall_millis)
        return True

    def count_for(self, address: str, client: str) -> bool:
        """Counts a proxy's connection as one of its client. Returns False when that has too many:
        then it counts for the proxy as before."""
        if client != address and self._open[client] >= self._most_each:
            self._log_refused(client)
            return False
        self.remove(address)
        self._open[client] += 1
        return True

    def remove(self, address: str) -> None:
        """Counts a connection no longer."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]

    def _log_refused(self, address: str) -> None:
        self._refused += 1
        now = asyncio.get_running_loop().time()
        if now - self._logged_at >= TOLD_SECS:
            lines = log.get()
            lines.warning("http_connections_refused", peer=address, count=self._refused)
            self._refused, self._logged_at = 0, now


class LimitedSite(web.BaseSite):
    """A listening socket whose connections are counted from their accept on.

    aiohttp's own sites know of a connection only once its handshake is over. `options` are
    aiohttp's for a connection. `proxies` are the networks whose connections begin with a header of
    the PROXY protocol.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        limit: ConnectionLimit,
        options: Mapping[str, Any],
        listening: socket.socket,
        tls: ssl.SSLContext | None = None,
        proxies: Collection[Network] = (),
    ) -> None:
        super().__init__(runner, ssl_context=tls)
        self._proxies = proxies
        self._limit = limit
        self._options = options
        self._listening = listening
        self._tls = tls
        self._accepting: asyncio.Task[None] | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    @property
    def name(self) -> str:
        """Returns its URL, of a socket in the file system its path."""
        if self._listening.family == socket.AF_UNIX:
            return f"unix:{self._listening.getsockname()}"
        host, port = self._listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self._tls else 'http'}://{shown}:{port}"

    def configure(self, tls: ssl.SSLContext | None, proxies: Collection[Network]) -> None:
        """Makes connections with this certificate, or without TLS, from the next one on, and
        expects a header of the PROXY protocol from these networks."""
        self._tls, self._proxies = tls, proxies

    async def start(self) -> None:
        """Accepts connections from now on."""
        await super().start()
        self._listening.setblocking(False)
        self._listening.listen(self._backlog)
        self._accepting = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        """Accepts no more, and ends handshakes. The runner closes the connections."""
        tasks = [*self._connecting, *([self._accepting] if self._accepting else [])]
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
                if problem.errno in _EXHAUSTED:
                    log.get().warning("http_not_accepted", why=problem.strerror)
                    await asyncio.sleep(RETRY_SECS)
                continue  # else it was gone before it was accepted
            host = str(address[0]) if address else ""
            try:
                is_proxy = is_trusted(host, self._proxies)
                counted = self._limit.add(accepted, host, is_proxy=is_proxy)
            except OSError:  # it is gone already
                self._limit.remove(host)
                counted = False
            if not counted:
                accepted.close()
                continue
            task = asyncio.create_task(
                self._connect_client(accepted, host) if is_proxy else self._connect(accepted, host)
            )
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect_client(self, accepted: socket.socket, proxy: str) -> None:
        """Does the same for a proxy's connection, whose header names the client."""
        client, connected = None, False
        try:
            client = await _client(accepted)
            connected = client is None or self._limit.count_for(proxy, client)
        except InvalidHeader as problem:
            log.get().warning("proxy_header_refused", peer=proxy, why=str(problem))
        except OSError as problem:  # TimeoutError is one
            log.get().debug("http_not_connected", peer=proxy, why=str(problem))
        finally:
            if not connected:
                self._limit.remove(proxy)
                accepted.close()
        if connected:
            await self._connect(accepted, client or proxy, client)

    async def _connect(self, accepted: socket.socket, host: str, client: str | None = None) -> None:
        """Makes an accepted socket a connection of the server, or closes it. `host` is the address
        for which it counts, `client` the one that a proxy named."""
        loop = asyncio.get_running_loop()
        server = self._runner.server
        if server is None:  # the runner is being cleaned up
            self._limit.remove(host)
            accepted.close()
            return
        connection = _Connection(self._limit, host, client, server, loop=loop, **self._options)
        tls = self._tls
        timeout = HANDSHAKE_SECS if tls else None
        try:
            await loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=tls, ssl_handshake_timeout=timeout
            )
        except OSError as problem:  # ssl.SSLError is one, and so is a timeout
            log.get().debug("http_not_connected", peer=host, why=str(problem))
        finally:
            connection.handshake_ended()


async def _client(accepted: socket.socket) -> str | None:
    """Reads the header of a proxy's connection, and no byte behind it. Returns the client's
    address; None where the proxy names none. Raises InvalidHeader, OSError.
    """
    loop = asyncio.get_running_loop()
    header = b""
    async with asyncio.timeout(HEADER_SECS):
        while count := proxy_header.missing(header):
            data = await loop.sock_recv(accepted, count)
            if not data:
                raise ConnectionError("closed within its header")
            header += data
    return proxy_header.parse(header).host


class _Connection(web.RequestHandler):
    """aiohttp's protocol of a connection that is counted."""

    __slots__ = ("_address", "_client", "_limit", "_made")

    def __init__(
        self,
        limit: ConnectionLimit,
        address: str,
        client: str | None,
        server: web.Server,
        **options: Any,
    ) -> None:
        super().__init__(server, **options)
        self._client = client
        self._limit = limit
        self._address: str | None = address
        self._made = False

    @property
    def peername(self) -> Any:
        """Returns the peer's address, as aiohttp asks for it: that of the client behind a proxy."""
        return self._client or super().peername

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Notes that the handshake was complete."""
        self._made = True
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Counts the connection no longer."""
        self._uncount()
        super().connection_lost(exc)

    def handshake_ended(self) -> None:
        """Counts it no longer if its handshake failed: then connection_lost is not called."""
        if not self._made:
            self._uncount()

    def _uncount(self) -> None:
        if self._address is not None:
            self._limit.remove(self._address)
            self._address = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Returns the response to bytes that cannot be parsed. aiohttp's own repeats them."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun: there can be no other")
        body = orjson.dumps({"error": http.HTTPStatus(status).phrase})
        response = web.Response(
            status=status, body=body, headers=HEADERS, content_type="application/json"
        )
        response.force_close()
        return response
