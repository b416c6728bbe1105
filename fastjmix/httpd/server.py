"""Serves routes over HTTP: the application around them, and its runner.

Wanted: the API's listeners and the embedded store respond alike.
Guaranteed: access is checked before every route, unknown ones included; connections are bounded
where they are accepted (connection_limit.py), and every bound is in limits.py.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Collection, Sequence
from socket import socket
from typing import Any

from aiohttp import web

from fastjmix.httpd import limits
from fastjmix.httpd.connection_limit import ConnectionLimit, LimitedSite
from fastjmix.httpd.credentials import Access
from fastjmix.httpd.current_routes import CurrentRoutes
from fastjmix.httpd.middleware import (
    CONNECTION_LIMIT,
    AccessLog,
    add_headers,
    bound_connections,
    bound_responses,
    reject_ambiguous,
    respond_to_errors,
)
from fastjmix.httpd.responses import Handler
from fastjmix.transport.proxy_header import Network


class Service:
    """The routes of a server, and who may use them.

    `access` is checked for every path except `open_paths`. Both can be replaced while the server
    runs: requests that come from then on are answered by the new ones, also on connections that
    are open. A request under way goes on as it began.
    """

    def __init__(
        self, routes: Sequence[web.RouteDef], access: Access, open_paths: Collection[str] = ()
    ) -> None:
        self.routes = CurrentRoutes(routes)
        self._access = access
        self._open_paths = open_paths

    def replace(self, routes: Sequence[web.RouteDef], access: Access) -> None:
        """Answers by these routes, for those who pass this check, from now on."""
        self.routes.replace(routes)
        self._access = access

    def check(self, request: web.Request) -> None:
        """Raises HttpError for a request that may not be answered."""
        if request.path not in self._open_paths:
            self._access.check(request)


class Runner(web.AppRunner):
    """An AppRunner whose connections are limited, and whose certificate can be replaced."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, handle_signals=False, access_log_class=AccessLog, **options)
        self._limited: list[LimitedSite] = []
        self._options = {"access_log_class": AccessLog, **options}
        del self._options["shutdown_timeout"]  # an option of the runner, not of a connection
        self._limit = app[CONNECTION_LIMIT]

    async def listen(
        self,
        listening: socket,
        tls: ssl.SSLContext | None = None,
        proxies: Collection[Network] = (),
    ) -> str:
        """Serves a bound socket, which is closed in the end; from `proxies` a PROXY protocol header
        comes first. Returns its URL."""
        site = LimitedSite(self, self._limit, self._options, listening, tls, proxies)
        await site.start()
        self._limited = [*(one for one in self._limited if one in self.sites), site]
        return site.name

    def configure(self, tls: ssl.SSLContext | None, proxies: Collection[Network]) -> None:
        """Changes how connections begin, from the next one on (see LimitedSite)."""
        for site in self._limited:
            site.configure(tls, proxies)


def make_runner(service: Service, *, shutdown_secs: float) -> Runner:
    """Returns a runner of a service, not yet set up.

    `shutdown_secs` is how long its cleanup waits for requests in flight.
    """
    quiet = logging.getLogger("fastjmix.aiohttp")  # its warnings would repeat what peers sent
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    options: dict[str, Any] = {
        "access_log": quiet,
        "logger": quiet,
        "auto_decompress": False,  # so that a small body stays small
        "keepalive_timeout": limits.KEEPALIVE_SECS,
        "lingering_time": limits.LINGER_SECS,
        "max_headers": limits.MAX_HEADERS,
        "max_line_size": limits.MAX_LINE_BYTES,
        "max_field_size": limits.MAX_LINE_BYTES,
        "shutdown_timeout": shutdown_secs,
    }
    return Runner(_application(service), **options)


def _application(service: Service) -> web.Application:
    @web.middleware
    async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
        service.check(request)
        return await handler(request)

    app = web.Application(
        middlewares=[
            bound_responses,
            respond_to_errors,
            bound_connections,
            reject_ambiguous,
            check_access,
        ]
    )
    app.router.register_resource(service.routes)
    app.on_response_prepare.append(add_headers)
    app[CONNECTION_LIMIT] = ConnectionLimit(
        most=limits.MAX_CONNECTIONS + limits.SPARE_CONNECTIONS,
        most_each=limits.MAX_CONNECTIONS_EACH,
        stall_secs=limits.WRITE_STALL_SECS,
    )
    return app
