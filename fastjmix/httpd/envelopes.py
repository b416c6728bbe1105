"""Responds to GET …/{id} and GET …/{id}/manifest with an open archive, for every server.

The archive is open before the request is negotiated: a 404 comes before a 406.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

from fastjmix.httpd.manifest import send_manifest
from fastjmix.httpd.negotiation import negotiate
from fastjmix.httpd.responses import JSON, ZIP
from fastjmix.httpd.sending import NO_HEADERS, send_archive


async def archive_of(
    request: web.Request, file: BinaryIO, more: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Responds with the archive that the request names, and closes it. Raises HttpError 406."""
    with file:
        negotiate(request, ZIP)
        return await send_archive(request, file, request.match_info["id"].lower(), more)


async def manifest_of(
    request: web.Request, file: BinaryIO, more: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Responds with manifest.json as it is in that archive, and closes it. Raises HttpError 406."""
    with file:
        negotiate(request, JSON)
        return await send_manifest(request, file, more)
