"""Serves envelopes: the newest of a study or a list, an archive by its id, its manifest.

Guaranteed: envelopes of outbox/ and sent/, never one that is being built or was rejected.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import BinaryIO

from aiohttp import web

from fastjmix.api.shared import Shared
from fastjmix.api.study_index import Entry
from fastjmix.httpd.envelopes import archive_of, manifest_of
from fastjmix.httpd.responses import JSON, HttpError, json_response
from fastjmix.httpd.sending import send_archive
from fastjmix.httpd.study_query import list_headers, study_of, wanted_type


class Serving:
    """The GET routes of one listener. Each responds to HEAD, too."""

    def __init__(self, shared: Shared, collection: str) -> None:
        self._shared = shared
        self._collection = collection

    async def query(self, request: web.Request) -> web.StreamResponse:
        """Responds with the newest envelope of a study, or with the list of them."""
        study = study_of(request)
        if study is None:
            raise HttpError(400, "studyInstanceUid is missing: add ?studyInstanceUid=…")
        wanted = wanted_type(request)
        found = await self._shared.study_index.of_study(study)
        if found and wanted == JSON:
            return json_response({"jmixEnvelopes": [_shown(entry, study) for entry in found]})
        more = list_headers(self._collection, study, len(found))
        for entry in found:
            with contextlib.suppress(FileNotFoundError), self._open_listed(entry) as file:
                return await send_archive(request, file, entry.id, more)
        raise HttpError(404, "no envelope of this study is here")

    async def archive(self, request: web.Request) -> web.StreamResponse:
        """Responds with an archive."""
        return await archive_of(request, self._shared.open_archive)

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        """Responds with manifest.json as it is in an archive."""
        return await manifest_of(request, self._shared.open_archive)

    def _open_listed(self, entry: Entry) -> BinaryIO:
        """Opens an archive. Raises FileNotFoundError when retention took it since the listing."""
        try:
            return self._shared.open_archive(entry.id)
        except HttpError as gone:
            raise FileNotFoundError from gone


def _shown(entry: Entry, study: str) -> dict[str, object]:
    sealed_at = datetime.fromtimestamp(entry.sealed_at, UTC)
    return {
        "id": entry.id,
        "studyInstanceUid": study,
        "state": entry.state,
        "instances": entry.instances,
        "sizeBytes": entry.size_bytes,
        "sealedAt": sealed_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }
