"""Sends archives, and ZIPs made of them: whole, a range of bytes, or a status instead
(RFC 9110 §13, §14).

Guaranteed: no archive is held in memory; it is open before the first header is sent, so that a 200
is never cut short by a rename or a removal; a response that breaks off ends its connection, and
looks like no whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Final, Protocol

from aiohttp import web

from fastjmix.httpd import limits
from fastjmix.httpd.conditions import not_modified
from fastjmix.httpd.ranges import byte_range
from fastjmix.httpd.responses import ZIP

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class Source(Protocol):
    """The bytes of a ZIP, which never change. `tag` differs between any two ZIPs; it is ASCII."""

    @property
    def size(self) -> int:
        """Returns the bytes of all of it."""

    @property
    def tag(self) -> str:
        """Returns the opaque part of its entity tag."""

    def read(self, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes at `offset`; none where they are gone. Raises OSError."""


class ArchiveFile:
    """An archive that is open, as a Source."""

    def __init__(self, file: BinaryIO, envelope_id: str) -> None:
        self._descriptor = file.fileno()
        self.size = os.fstat(self._descriptor).st_size
        self.tag = f"{envelope_id}-{self.size:x}"

    def read(self, size: int, offset: int) -> bytes:
        """Returns up to `size` bytes at `offset`. Raises OSError."""
        return os.pread(self._descriptor, size, offset)


@contextlib.contextmanager
def connection_errors() -> Iterator[None]:
    """Turns an OSError of the connection into a ConnectionError.

    It is put around code that uses the connection and nothing else. An OSError there is the
    client's or the network's: no route, an invalid TLS record.
    """
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as problem:
        raise ConnectionAbortedError(problem.strerror or str(problem)) from problem


async def send_archive(
    request: web.Request,
    file: BinaryIO,
    envelope_id: str,
    more: Mapping[str, str] = NO_HEADERS,
) -> web.StreamResponse:
    """Responds to GET or HEAD with an archive that is open: 200, 206, 304, 412 or 416.

    `more` are further headers.
    """
    return await send_zip(request, ArchiveFile(file, envelope_id), f"{envelope_id}.zip", more)


async def send_zip(
    request: web.Request, source: Source, name: str, more: Mapping[str, str] = NO_HEADERS
) -> web.StreamResponse:
    """Responds to GET or HEAD with a ZIP. `name` is a file's name for people who keep it, safe in
    a header; `more` are further headers."""
    etag = f'"{source.tag}"'  # §8.8.3
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",  # §14.3
        "Content-Disposition": f'attachment; filename="{name}"',
        **more,
    }
    if not_modified(request, etag):
        return web.Response(status=304, headers=headers)
    part = byte_range(request, etag, source.size)
    start, length = part or (0, source.size)
    if part:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{source.size}"  # §14.4
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_type = ZIP
    response.content_length = length
    with connection_errors():
        await response.prepare(request)
    if request.method != "HEAD":
        await _send(request, response, source, start, length)
    with connection_errors():
        await response.write_eof()
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, source: Source, start: int, length: int
) -> None:
    while length:
        size = min(length, limits.PIECE_BYTES)
        piece = await asyncio.to_thread(source.read, size, start)
        await write_in_time(request, response, piece)
        start += len(piece)
        length -= len(piece)


async def write_in_time(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Sends the next piece. An empty one means that there is no more, though more was announced.

    Raises TimeoutError, ConnectionError.
    """
    try:
        if not piece:
            raise ConnectionAbortedError("the rest of the answer is gone")
        with connection_errors():
            async with asyncio.timeout(limits.WRITE_STALL_SECS):
                await response.write(piece)
    except (TimeoutError, ConnectionAbortedError):
        if request.transport is not None:
            request.transport.abort()  # a short response must not look like a whole one
        raise
