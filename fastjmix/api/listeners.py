"""The HTTP listeners of the process: they come and go, and change while they serve.

Guaranteed: a listener is known by its address. One that stays keeps its connections: requests under
way go on as they began, and those that come next are answered by the new settings, on whichever
connection. The next TLS handshake shows the certificate that its file holds now. Server-sent events
to a caller whose credentials changed are ended. A listener that is removed accepts nothing more;
its requests under way have `grace_secs`. A listener whose files cannot be
used keeps its settings before; a new one is left out, with an error in the log.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fastjmix import log
from fastjmix.api.admin.callers import RemoteCallers
from fastjmix.api.admin.feed import Places
from fastjmix.api.admin.routes import Node, node_routes
from fastjmix.api.page.routes import OPEN_PATHS as PAGE_PATHS
from fastjmix.api.page.routes import page_routes
from fastjmix.api.routes import OPEN_PATHS, collection_of, routes
from fastjmix.api.shared import Shared
from fastjmix.config import HttpListener
from fastjmix.config.certificates import server_context
from fastjmix.errors import ConfigError
from fastjmix.httpd.credentials import AccessCheck, is_loopback
from fastjmix.httpd.server import Runner, Service, make_runner

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

Address = tuple[Any, ...]
"""An address as getsockname(2) returns it."""


@dataclass(slots=True)
class _Listener:
    """A listener that serves. `places` are for those who follow the status there."""

    settings: HttpListener
    runner: Runner
    service: Service
    places: Places


class Listeners:
    """The HTTP listeners of one process."""

    def __init__(self, shared: Shared, node: Node, grace_secs: float) -> None:
        self._shared = shared
        self._node = node
        self._grace_secs = grace_secs
        self._serving: dict[Address, _Listener] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, settings: HttpListener, listening: socket.socket) -> None:
        """Serves at a bound socket. Raises ConfigError."""
        places, tls = Places(), _tls(settings)
        service = Service(*self._service_of(settings, places), (*OPEN_PATHS, *PAGE_PATHS))
        runner = make_runner(service, shutdown_secs=self._grace_secs)
        await runner.setup()
        url = await runner.listen(listening, tls, settings.proxies)
        made = _Listener(settings, runner, service, places)
        self._serving[listening.getsockname()] = made
        log.get().info("http_listening", endpoint=settings.endpoint, url=url)

    async def configure(
        self, wanted: Sequence[HttpListener], sockets: Sequence[socket.socket], grace_secs: float
    ) -> None:
        """Serves these listeners and no others from now on.

        `sockets` are theirs, in the same order; those of listeners that stay are copies.
        """
        self._grace_secs = grace_secs
        addresses = [one.getsockname() for one in sockets]
        for address in self._serving.keys() - set(addresses):
            gone = self._serving.pop(address)
            log.get().info("http_listener_closed", endpoint=gone.settings.endpoint)
            for site in list(gone.runner.sites):
                await site.stop()
            self._end(gone)
        for settings, listening, address in zip(wanted, sockets, addresses, strict=True):
            known = self._serving.get(address)
            try:
                if known is not None:
                    self._change(known, settings)
                else:
                    await self.start(settings, listening)
            except ConfigError as problem:
                why, hint = problem.message, problem.hint
                log.get().error(
                    "http_listener_failed", endpoint=settings.endpoint, why=why, hint=hint
                )
            if known is not None or address not in self._serving:
                listening.close()

    async def close(self) -> None:
        """Ends all of them: requests in flight first."""
        for one in self._serving.values():
            self._end(one)
        await asyncio.gather(*self._ending)

    def _change(self, known: _Listener, settings: HttpListener) -> None:
        """Gives a listener its new settings. Raises ConfigError; then it keeps those before."""
        tls = _tls(settings)
        same = settings.credentials == known.settings.credentials
        places = known.places if same else Places()
        known.service.replace(*self._service_of(settings, places))
        known.runner.configure(tls, settings.proxies)
        if not same:
            known.places.end()
        known.places = places
        known.settings = settings

    def _end(self, one: _Listener) -> None:
        one.places.end()
        task = asyncio.create_task(one.runner.cleanup())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _service_of(
        self, settings: HttpListener, places: Places
    ) -> tuple[Sequence[web.RouteDef], AccessCheck]:
        """Returns the routes of a listener, and its access rule. Raises ConfigError."""
        access = _access(settings)
        callers = RemoteCallers(identified=settings.credentials is not None)
        status = self._node.status.as_json
        served = [
            *routes(settings, self._shared, _decryption_key(settings)),
            *node_routes(self._node, callers, places),
            *page_routes(settings, collection_of(settings), access, status),
        ]
        return served, access


def _tls(settings: HttpListener) -> ssl.SSLContext | None:
    """Returns TLS 1.2 or later, when a certificate and its key are configured.

    Raises ConfigError.
    """
    if settings.cert_file is None or settings.key_file is None:
        return None
    try:
        return server_context(settings.cert_file, settings.key_file)
    except OSError as problem:  # they were changed since they were read; ssl.SSLError is one
        raise ConfigError(
            f"{settings.cert_file}: not a certificate that fits {settings.key_file}: {problem}",
            "Both must be PEM files; the certificate file holds the chain, the server's first.",
        ) from problem


def _decryption_key(settings: HttpListener) -> RecipientKey | None:
    """Returns the key for envelopes that are posted encrypted, when one is configured.

    Raises ConfigError.
    """
    if settings.decryption_key_file is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys  # some 60 ms: only for decryption

    return key_files.load(keys.recipient_key, settings.decryption_key_file)


def _access(settings: HttpListener) -> AccessCheck:
    """Returns the access rule of a listener.

    Raises ConfigError for a listener that would serve patients' images to everyone.
    """
    if settings.credentials is not None:
        return AccessCheck(settings.credentials.header())
    if not is_loopback(settings.host) and not settings.allow_unauthenticated:
        raise ConfigError(
            f"endpoint {settings.endpoint}: {settings.host} is reachable from other machines",
            "Give it authentication, bind it to 127.0.0.1, or set allow_unauthenticated = true.",
        )
    return AccessCheck(None, (settings.host, *settings.allowed_hosts))
