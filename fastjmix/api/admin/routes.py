"""The routes about the node, the same on each TCP listener and on the local socket.

    GET   /api/node/status                   how the node is (status.py)
    GET   /api/node/events                   the same each second, as server-sent events
    GET   /api/node/envelopes?state=&study=&ae=&upstream=&older=&limit=&cursor=
                                             the envelopes on the disk, the oldest first
    GET   /api/node/trace?word=              the story of a word, from the ledger
    GET   /api/node/search?study=&series=&instance=&accession=&patient_id=&patient_name=&ae=&peer=
            &since=&until=&state=&envelope=&upstream=&limit=&cursor=
                                             envelopes by what the ledger knows, the newest first
    POST  /api/node/envelopes/retry | hold | release | requeue
                                             {"ids": […]}, or {"all": true} with the conditions of
                                             the list; "dry_run": true, "why": "…"; "upstream": "…"
                                             is for this one of several only
    POST  /api/node/envelopes/note-split     by fastjmix outbox split, when it has made parts
    POST  /api/node/reload | drain | undrain
                                             200 when it was done, 422 with "faults" when not

`older` is in seconds, `state` a list with commas.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from fastjmix.api.admin import parameters
from fastjmix.api.admin.callers import Callers
from fastjmix.api.admin.envelopes import Envelopes
from fastjmix.api.admin.feed import Feed, Places
from fastjmix.api.admin.rates import Rates
from fastjmix.api.admin.status import Status
from fastjmix.api.admin.supervisor import SupervisorLink
from fastjmix.api.admin.uploader import UploaderLink
from fastjmix.api.shared import Shared
from fastjmix.config import Config
from fastjmix.errors import UsageError
from fastjmix.httpd import limits
from fastjmix.httpd.responses import Handler, HttpError, allow, json_response
from fastjmix.ipc.actions import DONE, Kind
from fastjmix.ipc.requests import Do
from fastjmix.ledger.database import LedgerUnavailable
from fastjmix.ledger.queries import Ledger
from fastjmix.spool.selection import ELIGIBLE

BASE: Final = "/api/node"

ACTED_MAX: Final = 20_000
"""Envelopes of one request; a further one takes the others. The body of so many ids has 0.8 MB,
less than aiohttp's limit of 1 MB."""

SHOWN_CHARS: Final = 500
"""Characters of the faults in "error"; "faults" has all of them."""


class Node:
    """The node as all listeners of this process show it. Made in the loop that uses it."""

    def __init__(self, config: Config, shared: Shared) -> None:
        self.rates = Rates(shared.channels.metrics)
        self.envelopes = Envelopes(shared.spool, shared.study_index)
        self.ledger = Ledger(config.storage_dir)
        self.status = Status(config.name, shared, self.envelopes, self.ledger, self.rates)
        self.feed = Feed(self.status.as_json, shared.stopping)
        self.uploader = UploaderLink(shared.channels.actions)
        self.supervisor = SupervisorLink(shared.channels.asking)

    def close(self) -> None:
        """Reads no more answers of other processes."""
        self.uploader.close()
        self.supervisor.close()

    def configure(self, config: Config) -> None:
        """Goes by another configuration from now on."""
        self.status.name = config.name


def node_routes(node: Node, callers: Callers, places: Places) -> Sequence[web.RouteDef]:
    """Returns the routes of one listening socket."""
    handlers = _Handlers(node, callers, places)
    reading: dict[str, Handler] = {
        "status": handlers.status,
        "envelopes": handlers.envelopes,
        "trace": handlers.trace,
        "search": handlers.search,
    }
    found = [web.get(f"{BASE}/{name}", handler) for name, handler in reading.items()]
    found.append(web.get(f"{BASE}/events", handlers.events, allow_head=False))
    found += [
        web.options(f"{BASE}/{name}", allow("GET", "OPTIONS")) for name in (*reading, "events")
    ]
    kinds, node_kinds = "|".join(Kind), "|".join(Do)
    acting: dict[str, Handler] = {
        f"{BASE}/envelopes/{{kind:{kinds}}}": handlers.act,
        f"{BASE}/{{do:{node_kinds}}}": handlers.ask,
    }
    for path, handler in acting.items():
        found += [web.post(path, handler), web.options(path, allow("POST", "OPTIONS"))]
    return found


class _Handlers:
    """The handlers of one listener."""

    def __init__(self, node: Node, callers: Callers, places: Places) -> None:
        self._node = node
        self._callers = callers
        self._places = places

    async def events(self, request: web.Request) -> web.StreamResponse:
        return await self._node.feed.serve(request, self._places)

    async def status(self, _: web.Request) -> web.StreamResponse:
        return json_response(await self._node.status.as_json())

    async def envelopes(self, request: web.Request) -> web.StreamResponse:
        given = request.query
        with _refusals():
            parameters.require_known(given, {*parameters.CONDITIONS, *parameters.PAGING})
            selection = parameters.selection_of(given)
            limit, after = parameters.limit_of(given), parameters.cursor_of(given)
        rows, cursor = await self._node.envelopes.page(selection, limit, after)
        shown = [row.as_json() for row in rows]
        return json_response({"envelopes": shown, "cursor": parameters.cursor_text(cursor)})

    async def trace(self, request: web.Request) -> web.StreamResponse:
        given = request.query
        with _refusals():
            parameters.require_known(given, {"word"})
            if not given.get("word", "").strip():
                raise UsageError("word is missing: add ?word=…")
            found = await asyncio.to_thread(self._node.ledger.trace, given["word"])
        return json_response(found.as_json())

    async def search(self, request: web.Request) -> web.StreamResponse:
        given = request.query
        with _refusals():
            search, limit = parameters.search_of(given), parameters.limit_of(given)
            # The ledger's cursor may have a "+", which a client leaves as it is, and means a space.
            cursor = given["cursor"].replace(" ", "+") if "cursor" in given else None
            found = await asyncio.to_thread(self._node.ledger.search, search, limit, cursor)
        return json_response(found.as_json())

    async def act(self, request: web.Request) -> web.StreamResponse:
        actor = await self._callers.actor(request)
        kind = Kind(request.match_info["kind"])
        with _refusals():
            async with asyncio.timeout(limits.BODY_IDLE_SECS):
                text = await request.read()
            body = parameters.ActionBody(text, ELIGIBLE[kind])
        ids, more = await self._chosen(body, on_hold=kind is Kind.RELEASE)
        told: dict[str, Any] = {"action": kind.value, "dry_run": body.dry_run, "more": more}
        if body.dry_run:
            return json_response({**told, "envelopes": ids})
        asked = kind, ids, actor, body.why, body.upstream
        results = await self._node.uploader.act(*asked) if ids else {}
        done = sum(result == DONE for result in results.values())
        failed = len(results) - done
        return json_response({**told, "results": dict(results), "done": done, "failed": failed})

    async def ask(self, request: web.Request) -> web.StreamResponse:
        actor = await self._callers.actor(request)
        answer = await self._node.supervisor.ask(Do(request.match_info["do"]), actor)
        if answer.ok:
            return json_response(answer.as_json())
        error = {"error": "not done: " + "; ".join(answer.faults)[:SHOWN_CHARS]}
        return json_response({**error, **answer.as_json()}, 422)

    async def _chosen(
        self, body: parameters.ActionBody, *, on_hold: bool
    ) -> tuple[list[str], bool]:
        """Returns the ids, ACTED_MAX at most, and whether there are more. Raises HttpError 413."""
        if body.ids is None:
            selection = replace(body.selection, on_hold=on_hold)
            rows, cursor = await self._node.envelopes.page(selection, ACTED_MAX)
            return [row.id for row in rows], cursor is not None
        if len(body.ids) > ACTED_MAX:
            raise HttpError(413, f"{ACTED_MAX} ids at most")
        return list(body.ids), False


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns a fault of the request into 400, and a ledger that cannot be read into 503."""
    try:
        yield
    except UsageError as problem:
        hint = f": {problem.hint}" if problem.hint else ""
        raise HttpError(400, problem.message + hint) from None
    except LedgerUnavailable as problem:
        raise HttpError(503, problem.message, {"Retry-After": "5"}) from None
