"""Responds to GET …/manifest with manifest.json as it is in an archive, sent as it is unpacked.

Wanted: a manifest of many MB, which an unknown sender's archive of a few KB may hold, costs a
connection no more memory than an archive does, however many ask for it and however slowly they
read.
Guaranteed: the manifest was whole before the first header is sent. If it is damaged from then on,
or not taken in time, the connection ends, and the response does not look whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import BinaryIO

from aiohttp import web

from fastjmix.errors import EnvelopeError
from fastjmix.httpd.responses import JSON
from fastjmix.httpd.sending import NO_HEADERS, connection_errors, write_in_time
from fastjmix.jmix.read.admission import open_manifest


async def send_manifest(
    request: web.Request, file: BinaryIO, more: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Responds to GET or HEAD with the manifest of an open archive. Raises EnvelopeError.

    `more` are further headers.
    """
    member = await asyncio.to_thread(open_manifest, file)
    response = web.StreamResponse(headers=more)
    response.content_type = JSON
    response.content_length = left = member.size
    with connection_errors():
        await response.prepare(request)
    pieces = member.pieces()
    while left and request.method != "HEAD":
        try:
            piece = await asyncio.to_thread(next, pieces, b"")
        except (EnvelopeError, OSError):
            piece = b""
        await write_in_time(request, response, piece)
        left -= len(piece)
    with connection_errors():
        await response.write_eof()
    return response
