"""Wraps the routes: errors as {"error": …}, bounds of connections and responses, one log line."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractAccessLogger

from fastjmix import log
from fastjmix.errors import EnvelopeError
from fastjmix.httpd import limits
from fastjmix.httpd.connection_limit import ConnectionLimit
from fastjmix.httpd.responses import HEADERS, Handler, HttpError, json_response
from fastjmix.httpd.sending import connection_errors
from fastjmix.jmix.faults import Unforeseen

CONNECTION_LIMIT: Final = web.AppKey("connection_limit", ConnectionLimit)
"""Key in an application: its connections are counted there."""

LOST: Final = "fastjmix.lost"
"""Key in a request: its connection ended before its response did."""


@web.middleware
async def respond_to_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every failure into {"error": …}; only a fault of ours is logged as an error."""
    try:
        return await handler(request)
    except HttpError as refusal:
        return json_response({"error": refusal.message}, refusal.status, refusal.headers)
    except EnvelopeError as refusal:
        if isinstance(refusal, Unforeseen):
            log.get().debug("envelope_unforeseen", exc_info=refusal)
        hint = {"hint": refusal.hint} if refusal.hint else {}
        return json_response({"error": refusal.message, **hint}, 400)
    except web.HTTPException as refusal:
        kept = {name: refusal.headers[name] for name in ("Allow",) if name in refusal.headers}
        return json_response({"error": refusal.reason}, refusal.status, kept)
    except (ConnectionError, TimeoutError) as problem:
        request[LOST] = True
        log.get().info(
            "http_connection_lost",
            peer=request.remote,
            method=request.method,
            path=request.rel_url.path[: limits.SHOWN_PATH],
            problem=str(problem),
        )
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return json_response({"error": "the storage is full: nothing was kept"}, 507)
        return _internal_error(problem)
    except Exception as problem:
        return _internal_error(problem)


def _internal_error(problem: Exception) -> web.Response:
    log.get().error("http_handler_failed", exc_info=problem)
    return json_response({"error": "internal error: see the log of fastjmix"}, 500)


@web.middleware
async def bound_responses(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Limits how long a response is held in memory. Archives have a limit of their own."""
    response = await handler(request)
    if isinstance(response, web.Response):
        size = len(response.body) if isinstance(response.body, bytes) else 0
        try:
            with connection_errors():
                secs = limits.WRITE_STALL_SECS + size / limits.ANSWER_RATE_MIN
                async with asyncio.timeout(secs):
                    await response.prepare(request)
                    await response.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise
    return response


@web.middleware
async def bound_connections(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Responds 503 to a request on a connection beyond the limit."""
    if request.app[CONNECTION_LIMIT].count > limits.MAX_CONNECTIONS:
        reason = f"more than {limits.MAX_CONNECTIONS} connections: try again later"
        response = json_response({"error": reason}, 503, {"Retry-After": "5"})
        response.force_close()
        return response
    return await handler(request)


@web.middleware
async def reject_ambiguous(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses a request that another server may read in another way (RFC 9112 §6.1, §11.2).

    aiohttp's compiled parser does that; the one in Python, which is used without it, does not.
    """
    codings = request.headers.getall("Transfer-Encoding", ["chunked"])
    known = request.version in (HttpVersion10, HttpVersion11)
    if not known or [coding.lower() for coding in codings] != ["chunked"]:
        reason = "this is no HTTP/1.1: send its version, and Transfer-Encoding chunked or none"
        response = json_response({"error": reason}, 400)
        response.force_close()
        return response
    return await handler(request)


async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Adds the headers of every response, before it is sent. One that may be cached says so itself;
    the others are ours, whatever aiohttp put there (its Server names versions)."""
    cached = response.headers.get("Cache-Control", HEADERS["Cache-Control"])
    response.headers.update({**HEADERS, "Cache-Control": cached})


def shown_query(query: Mapping[str, str], shown: Callable[[str], str | None]) -> str | None:
    """Returns a query as the log shows it: `shown` is Logger.with_studies. None: not at all."""
    return shown(urlencode(query, safe=":/")[: limits.SHOWN_PATH])


class AccessLog(AbstractAccessLogger):
    """The log of requests: one line each. Query values (study UIDs) are logged at debug only.

    A request whose client went away has its line already, and got no status.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Logs a request. aiohttp calls this when the response was sent; `time` is in seconds."""
        if LOST in request:
            return
        lines = log.get()
        lines.info(
            "http_request",
            peer=request.remote or None,  # None: the local socket
            method=request.method,
            path=request.rel_url.path[: limits.SHOWN_PATH],
            status=response.status,
            bytes=response.body_length,
            millis=round(time * 1000),
        )
        if request.query_string:
            lines.debug("http_query", query=shown_query(request.query, lines.with_studies))
