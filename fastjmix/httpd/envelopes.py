"""Responds to GET …/{id} and GET …/{id}/manifest, for every server of envelopes.

The archive is open before the request is negotiated: a 404 comes before a 406.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from aiohttp import web

from fastjmix.httpd.manifest import send_manifest
from fastjmix.httpd.negotiation import negotiate
from fastjmix.httpd.responses import JSON, ZIP
from fastjmix.httpd.sending import send_archive

OpenArchive = Callable[[str], BinaryIO]
"""Opens the archive of an id. Raises HttpError 404."""


async def archive_of(request: web.Request, open_archive: OpenArchive) -> web.StreamResponse:
    """Responds with the archive that the request names. Raises HttpError 404, 406."""
    envelope_id = request.match_info["id"]
    with open_archive(envelope_id) as file:
        negotiate(request, ZIP)
        return await send_archive(request, file, envelope_id.lower())


async def manifest_of(request: web.Request, open_archive: OpenArchive) -> web.StreamResponse:
    """Responds with manifest.json as it is in that archive. Raises HttpError 404, 406."""
    with open_archive(request.match_info["id"]) as file:
        negotiate(request, JSON)
        return await send_manifest(request, file)
