"""Responses that carry JSON, and refusals: {"error": …} with a status and one sentence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import orjson
from aiohttp import web

ZIP: Final = "application/zip"
JSON: Final = "application/json"

HEADERS: Final[Mapping[str, str]] = {
    "Server": "fastjmix",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, no-store",
}
"""Headers of every response."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpError(Exception):
    """A response that is not a success: status, one sentence, and headers that belong to it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def json_response(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Returns a response with a JSON text. `content` may be bytes that are JSON already."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def allow(*methods: str) -> Handler:
    """Returns a handler for OPTIONS (RFC 9110 §9.3.7): 204 with Allow (§10.2.1)."""

    async def respond(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": ", ".join(methods)})

    return respond
