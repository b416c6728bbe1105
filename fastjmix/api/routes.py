"""Lists the routes of one listener.

Under its path_prefix:

    GET|HEAD|OPTIONS  /api/jmix?studyInstanceUid=    the newest envelope of a study; all of them in
                                                     one ZIP with &whole=1; or a JSON list; headers
                                                     say when there are several
                                                     (httpd/study_query.py); 202 while it is packed
    GET|HEAD|OPTIONS  /api/jmix/{id}                 the archive: ranges, entity tag, conditions
    GET|HEAD|OPTIONS  /api/jmix/{id}/manifest        manifest.json, as it is in the archive
    POST              /api/jmix                      validated, put in outbox/, answered when the
                                                     upstream has: 201, 400, 409, 415, 502, 503, 504
and outside it /healthz, /readyz, /metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from aiohttp import web

from fastjmix.api.exposition import expose
from fastjmix.api.posting import Posting
from fastjmix.api.serving import Serving
from fastjmix.api.shared import Shared
from fastjmix.config import HttpListener
from fastjmix.httpd.responses import allow, json_response

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

READING: Final = ("GET", "HEAD", "OPTIONS")

OPEN_PATHS: Final = ("/healthz", "/readyz")
"""Paths that need no credentials."""


def collection_of(settings: HttpListener) -> str:
    """Returns the path of a listener's envelopes."""
    return f"/{settings.path_prefix.strip('/')}/api/jmix".replace("//", "/")


def routes(
    settings: HttpListener, shared: Shared, key: RecipientKey | None
) -> Sequence[web.RouteDef]:
    """Returns the routes of a listener. `key` decrypts posted envelopes, to check them inside."""
    collection = collection_of(settings)
    one = f"{collection}/{{id}}"
    serving = Serving(shared, collection)
    node = _NodeRoutes(shared)
    return [
        web.get(collection, serving.query),
        web.post(collection, Posting(settings, shared, collection, key).post),
        web.options(collection, allow(*READING, "POST")),
        web.get(one, serving.archive),
        web.options(one, allow(*READING)),
        web.get(f"{one}/manifest", serving.manifest),
        web.options(f"{one}/manifest", allow(*READING)),
        web.get("/healthz", node.live),
        web.get("/readyz", node.ready),
        web.get("/metrics", node.metrics),
    ]


class _NodeRoutes:
    """The routes about the node itself."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    async def live(self, _: web.Request) -> web.StreamResponse:
        return json_response({"status": "live"})

    async def ready(self, _: web.Request) -> web.StreamResponse:
        reasons = await asyncio.to_thread(self._shared.state.not_ready_reasons)
        warnings = await asyncio.to_thread(self._shared.warnings.all)
        more = {"warnings": warnings} if warnings else {}
        if reasons:
            return json_response({"status": "not ready", "reasons": reasons, **more}, 503)
        return json_response({"status": "ready", **more})

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        accept = request.headers.get("Accept", "")
        text, content_type = await asyncio.to_thread(expose, self._shared, accept)
        return web.Response(body=text, headers={"Content-Type": content_type})
