"""Opens the connections to one upstream, and decides which of them are used again.

Guaranteed: TLS is always verified, 1.2 or later, and a pinned key besides; redirects are the
caller's to refuse; no cookie is kept, no proxy is taken from the environment unless the target's
configuration says so (proxies.py), and an answer's head is bounded.
After an answer that takes no envelope, new connections replace the old ones: a server that has left
the body unread, or a part of it, takes that for the next request, and its answer must not be the
answer to another body. A page with 200 is such an answer, too.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from fastjmix._version import __version__
from fastjmix.config import Upstream
from fastjmix.config.certificates import client_context
from fastjmix.config.tree import IpVersion
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.proxies import proxy_of
from fastjmix.uploader.request_body import RequestBody
from fastjmix.uploader.throttle import PIECE_BYTES_MAX

HEADER_LINE_BYTES_MAX: Final = 8190
"""Bytes of one header line; and at most HEADERS_MAX of them."""

HEADERS_MAX: Final = 128

FAMILIES: Final[Mapping[IpVersion, socket.AddressFamily]] = {
    "any": socket.AF_UNSPEC,
    "4": socket.AF_INET,
    "6": socket.AF_INET6,
}
"""The addresses of a name that Transport.ip stands for."""


@dataclass(slots=True)
class Pool:
    """Connections, and how many use them. Once it is retired it closes with its last user.

    `proxy_headers` belong to each request: a tunnel is asked for with them.
    """

    session: aiohttp.ClientSession
    proxy_headers: Mapping[str, str]
    users: int = 0
    retired: bool = False


class Connections:
    """The connections to one upstream: a pool of kept-alive ones, and others that are used once."""

    def __init__(self, upstream: Upstream, limits: TimeLimits, count: int) -> None:
        self._upstream = upstream
        self._limits = limits
        self._count = count
        self._pools: dict[bool, Pool] = {}

    @contextlib.asynccontextmanager
    async def use(self, *, single_use: bool = False) -> AsyncIterator[Pool]:
        """Lends a pool, made when first needed. Raises ssl.SSLError (the ca_file).

        `single_use`: of connections that close after one exchange.
        """
        pool = self._pools.get(single_use)
        if pool is None:
            pool = self._pools[single_use] = self._pool(single_use=single_use)
        pool.users += 1
        try:
            yield pool
        finally:
            pool.users -= 1
            if pool.retired and not pool.users:
                await pool.session.close()

    def retire(self, pool: Pool) -> None:
        """Uses no connection of this pool for another exchange."""
        if not pool.retired:
            pool.retired = True
            self._pools = {kind: each for kind, each in self._pools.items() if each is not pool}

    async def close(self) -> None:
        """Closes the connections."""
        while self._pools:
            await self._pools.popitem()[1].session.close()

    def _pool(self, *, single_use: bool) -> Pool:
        connector = aiohttp.TCPConnector(
            limit=self._count,
            force_close=single_use,
            ssl=_tls(self._upstream),
            family=FAMILIES[self._upstream.transport.ip],
            socket_factory=self._socket,
        )
        proxy = proxy_of(self._upstream, self._upstream.url)
        for_proxy = proxy.headers() if proxy is not None else {}
        tunnelled = self._upstream.url.startswith("https:")
        session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            proxy=proxy.url if proxy is not None else None,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={
                "User-Agent": f"fastjmix/{__version__}",
                "Accept-Encoding": "identity",
                **({} if tunnelled else for_proxy),
            },
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            timeout=aiohttp.ClientTimeout(
                connect=self._limits.connect, sock_connect=self._limits.connect
            ),
            trace_configs=[_tracing()],
            trust_env=False,
        )
        return Pool(session, for_proxy if tunnelled else {})

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """Makes a socket whose kernel gives up, too, on bytes that the peer does not acknowledge.

        Its buffer holds megabytes, which are no progress: it asks for more when little is left.
        """
        made = socket.socket(address[0], address[1], address[2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        millis = max(1, int(self._limits.stall * 1000))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, millis)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, PIECE_BYTES_MAX)
        return made


def _tls(upstream: Upstream) -> ssl.SSLContext | bool:
    """Returns the TLS settings. With a ca_file, that authority and no other is trusted."""
    return context_of(upstream) if upstream.url.startswith("https:") else True


def context_of(upstream: Upstream) -> ssl.SSLContext:
    """Returns the TLS context for an upstream. Raises ssl.SSLError, which names the file."""
    own = upstream.transport
    return client_context(upstream.ca_file, own.cert_file, own.key_file, own.pins)


def _tracing() -> aiohttp.TraceConfig:
    """Marks a RequestBody whose connection had been used before, and may be stale."""

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        body = context.trace_request_ctx
        if isinstance(body, RequestBody):
            body.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config
