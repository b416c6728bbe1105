"""Lists the routes of the page.

    GET|HEAD  /             the page; without JavaScript: tables, where the request may read data
    GET|HEAD  /page/table   the tables alone; a browser asks for user name and password if need be
    GET|HEAD  /page/*.css, *.js

Guaranteed: / and the files need no credentials and hold no data. Data in / is for a request that
passes the listener's access check: credentials, or none configured and a Host that is this machine.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from fastjmix.api.page.files import PLACE, Asset, assets, document, respond
from fastjmix.api.page.shell import CLOSED, Shell, table_page
from fastjmix.api.page.table import status_tables
from fastjmix.config import HttpListener
from fastjmix.httpd.credentials import AccessCheck
from fastjmix.httpd.responses import HttpError

Status = Callable[[], Awaitable[Mapping[str, Any]]]

ASSETS: Final[Mapping[str, Asset]] = assets()

OPEN_PATHS: Final = ("/", *ASSETS)
"""Paths that need no credentials."""


def page_routes(
    settings: HttpListener, collection: str, access: AccessCheck, status: Status
) -> Sequence[web.RouteDef]:
    """Returns the page's routes. `collection` is the path of the listener's envelopes; `status`
    returns what /api/node/status answers."""
    page = _Page(Shell(document(), settings, collection), access, status)
    files = [web.get(path, page.file) for path in ASSETS]
    return [web.get("/", page.page), web.get(f"{PLACE}table", page.table), *files]


class _Page:
    """The handlers of one listener."""

    def __init__(self, shell: Shell, access: AccessCheck, status: Status) -> None:
        self._shell = shell
        self._access = access
        self._status = status

    async def page(self, request: web.Request) -> web.StreamResponse:
        try:
            self._access.check(request)
        except HttpError:
            return self._shell.page(CLOSED)
        return self._shell.page(status_tables(await self._status()))

    async def table(self, _: web.Request) -> web.StreamResponse:
        return table_page(status_tables(await self._status()))

    async def file(self, request: web.Request) -> web.StreamResponse:
        return respond(request, ASSETS[request.path])
