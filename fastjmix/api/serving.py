"""Serves envelopes: the newest of a study, all of them, or a list; an archive by its id.

Guaranteed: an envelope is served in each state but two: one that is being packed is answered with
202 and Retry-After, one that was rejected because it is damaged with 409. The list has both. The
state is in the header X-Envelope-State.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from fastjmix.api.lookup import STATE, Found, find
from fastjmix.api.shared import Shared
from fastjmix.httpd.envelopes import archive_of, manifest_of
from fastjmix.httpd.parts import Part, require_few, send_parts
from fastjmix.httpd.responses import JSON, HttpError, json_response
from fastjmix.httpd.sending import NO_HEADERS, send_archive
from fastjmix.httpd.study_query import STUDY, list_headers, study_of, wanted_type, whole_wanted
from fastjmix.spool import Spool
from fastjmix.spool.at_upstreams import AtUpstream, at_upstreams
from fastjmix.spool.entries import Entry
from fastjmix.spool.routed import Routed, routed
from fastjmix.spool.standing import Standing, standing
from fastjmix.spool.ticket import USUAL_ROUTE

BUILDING_SECS: Final = 5
"""Retry-After while an envelope is being packed: the end of its association seals it, soon."""

LEFT_OUT: Final = "X-Envelopes-Left-Out"
"""The header that counts the envelopes of a study which the ZIP of all lacks: they are damaged, or
were deleted meanwhile."""

NONE_HERE: Final = "no envelope of this study is here"


class Serving:
    """The GET routes of one listener. Each responds to HEAD, too."""

    def __init__(self, shared: Shared, collection: str) -> None:
        self._shared = shared
        self._collection = collection

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Responds with the newest envelope of a study, with all in one ZIP, or with a list."""
        study = study_of(request)
        if study is None:
            raise HttpError(400, "studyInstanceUid is missing: add ?studyInstanceUid=…")
        whole = whole_wanted(request)
        listed = not whole and wanted_type(request) == JSON
        entries = await self._shared.study_index.of_study(study)
        if not entries:
            raise HttpError(404, NONE_HERE)
        if listed:
            shown = await asyncio.to_thread(_listed, self._shared.spool, study, entries)
            return json_response({"jmixEnvelopes": shown})
        more = list_headers(self._collection, study, len(entries))
        if whole:
            return await self._whole(request, study, entries, more)
        return await self._newest(request, study, entries, more)

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Responds with an archive."""
        found = await self._find(request.match_info["id"])
        if found.file is None:
            return _building({"id": found.id}, found.standing.since)
        return await archive_of(request, found.file, found.headers)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """Responds with manifest.json as it is in an archive."""
        found = await self._find(request.match_info["id"])
        if found.file is None:
            return _building({"id": found.id}, found.standing.since)
        return await manifest_of(request, found.file, found.headers)

    async def _find(self, envelope_id: str) -> Found:
        """Raises HttpError."""
        return await asyncio.to_thread(find, self._shared.spool, envelope_id)

    async def _newest(
        self, request: web.Request, study: str, entries: Sequence[Entry], more: Mapping[str, str]
    ) -> web.StreamResponse:
        """Responds with the newest envelope that is whole. Raises HttpError."""
        refusal = HttpError(404, NONE_HERE)
        for entry in entries:
            if not entry.sealed:
                continue
            try:
                found = await self._find(entry.id)
            except HttpError as problem:  # it is damaged, or gone since the listing
                refusal = problem if refusal.status == 404 else refusal
                continue
            if found.file is not None:
                with found.file as file:
                    return await send_archive(request, file, found.id, {**more, **found.headers})
        if not entries[0].sealed:
            return _building({STUDY: study}, entries[0].at, more)
        raise HttpError(refusal.status, refusal.message, {**more, **refusal.headers})

    async def _whole(
        self, request: web.Request, study: str, entries: Sequence[Entry], more: Mapping[str, str]
    ) -> web.StreamResponse:
        """Responds with all envelopes of a study in one ZIP, the oldest first. Raises HttpError."""
        if not entries[0].sealed:
            return _building({STUDY: study}, entries[0].at, more)
        require_few(len(entries), more)
        parts: list[Part] = []
        refusal = HttpError(404, NONE_HERE)
        with self._shared.joined.take(), contextlib.ExitStack() as files:
            for entry in reversed(entries):
                try:
                    found = await self._find(entry.id)
                except HttpError as problem:
                    if problem.status not in (404, 409):
                        raise  # the disk cannot be read: it may be whole all the same
                    refusal = problem
                    continue
                if found.file is not None:
                    parts.append(Part(found.id, files.enter_context(found.file)))
            if not parts:
                raise HttpError(refusal.status, refusal.message, {**more, **refusal.headers})
            lacking = len(entries) - len(parts)
            headers = {**more, LEFT_OUT: str(lacking)} if lacking else more
            return await send_parts(request, parts, headers)


def _building(
    about: Mapping[str, str], begun: float, more: Mapping[str, str] = NO_HEADERS
) -> web.Response:
    """Returns 202 (RFC 9110 §15.3.3) for an envelope that is being packed since `begun`."""
    content = {**about, "state": "building", "ageSecs": _age(begun)}
    headers = {**more, STATE: "building", "Retry-After": str(BUILDING_SECS)}
    return json_response(content, 202, headers)


def _listed(spool: Spool, study: str, entries: Sequence[Entry]) -> list[Mapping[str, Any]]:
    """Returns a study's list. Raises HttpError 404 when all of it was deleted, OSError."""
    now = [(entry, standing(spool, entry.id, entry.place)) for entry in entries]
    shown = [_shown(spool, entry, at, study) for entry, at in now if at is not None]
    if not shown:
        raise HttpError(404, NONE_HERE)
    return shown


def _shown(spool: Spool, entry: Entry, now: Standing, study: str) -> Mapping[str, Any]:
    several = at_upstreams(spool, entry.id, now.state) if len(entry.upstreams) > 1 else ()
    sealed = datetime.fromtimestamp(entry.at, UTC).isoformat(timespec="seconds")
    return {
        "id": entry.id,
        "studyInstanceUid": study,
        "state": now.state,
        "reason": now.reason or None,
        "ageSecs": _age(now.since),
        "instances": entry.instances,
        "sizeBytes": entry.size_bytes if entry.sealed else now.size_bytes,
        "sealedAt": sealed.replace("+00:00", "Z") if entry.sealed else None,
        **({"upstreams": [_at(one) for one in several]} if several else {}),
        **_routed(routed(spool, entry.id, now.state)),
    }


def _routed(by: Routed) -> Mapping[str, Any]:
    """Returns how an envelope was routed, where it was not as usual."""
    shown = {"rule": by.rule, "priority": by.priority, "tags": list(by.tags)}
    return {name: value for name, value in shown.items() if value != USUAL_ROUTE[name]}


def _at(one: AtUpstream) -> Mapping[str, str | None]:
    """Returns how an envelope stands at one of several upstreams."""
    return {"name": one["upstream"], "state": one["state"], "reason": one["reason"] or None}


def _age(since: float) -> int | None:
    """Returns whole seconds since a moment; None for one that is not known."""
    return max(0, int(time.time() - since)) if since else None
