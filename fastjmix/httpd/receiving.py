"""Receives the archive of a POST into a file.

Guaranteed: no body is held in memory; it is stored as it was sent (a Content-Encoding is refused,
never undone); it comes in time, or is refused.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from aiohttp import web

from fastjmix.httpd import limits
from fastjmix.httpd.responses import ZIP, HttpError
from fastjmix.httpd.sending import connection_errors
from fastjmix.httpd.upload_body import BodyFile

ZIP_NAMES: Final = frozenset({ZIP, "application/x-zip-compressed", "application/octet-stream"})
"""Content types of a posted archive: the registered one, the one of Windows, and that of clients
which do not know the type. The bytes of the archive decide its type."""


class Received(NamedTuple):
    """A body that was written to a file: its size in bytes, its CRC-32."""

    size: int
    crc32: int


def create_private(path: Path) -> BinaryIO:
    """Creates a file for patients' data, with mode 0600. Raises OSError, also when it exists."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "w+b")


def require_zip(request: web.Request) -> None:
    """Raises HttpError 415 (RFC 9110 §15.5.16) unless the body is a ZIP by name, and uncoded."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()  # §8.4
    if coding not in ("", "identity"):
        shown = coding[: limits.SHOWN_CODING]
        raise HttpError(415, f"Content-Encoding {shown} is not accepted: send the ZIP as is")
    if "Content-Type" not in request.headers:
        raise HttpError(415, f"Content-Type is missing: send {ZIP}")
    given = {
        value.partition(";")[0].strip().lower() for value in request.headers.getall("Content-Type")
    }
    if not given <= ZIP_NAMES:
        other = min(given - ZIP_NAMES)[: limits.SHOWN_TYPE]
        raise HttpError(415, f"Content-Type must be {ZIP}, not {other}")


def require_size(request: web.Request, max_bytes: int) -> None:
    """Raises HttpError 413 where the length that the request names is over `max_bytes`."""
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)


def _too_large(max_bytes: int) -> HttpError:
    return HttpError(413, f"the body is larger than {max_bytes} bytes, the limit here")


async def receive(
    request: web.Request, file: BinaryIO, max_bytes: int, take: Callable[[int], bool] | None = None
) -> Received:
    """Writes the request's body to `file`. `take(n)` returns whether n more bytes may be written.

    Raises HttpError 400 (cut short), 408 (too slow), 413 (over `max_bytes`), 507 (`take`), OSError
    (disk).
    """
    require_size(request, max_bytes)
    body, total = BodyFile(file), 0
    try:
        async for piece in _pieces_of(request):
            total += len(piece)
            if total > max_bytes:
                raise _too_large(max_bytes)
            if take is not None and not take(len(piece)):
                raise HttpError(507, "the storage is nearly full: nothing was kept")
            await body.put(piece)
        await body.flush()
    finally:
        await body.close()
    if not total:
        raise HttpError(400, "the body is empty")
    return Received(body.size, body.crc32)


async def _pieces_of(request: web.Request) -> AsyncIterator[bytes]:
    """Yields the body as it comes. Raises HttpError 408 when it is too slow over all."""
    clock = asyncio.get_running_loop().time
    started = clock()
    total = 0
    while piece := await _next_piece(request):
        total += len(piece)
        elapsed = clock() - started
        if elapsed > limits.BODY_IDLE_SECS and total < elapsed * limits.BODY_RATE_MIN:
            reason = f"the body came slower than {limits.BODY_RATE_MIN} bytes per second"
            raise HttpError(408, reason)
        yield piece


async def _next_piece(request: web.Request) -> bytes:
    try:
        with connection_errors():
            async with asyncio.timeout(limits.BODY_IDLE_SECS):
                return await request.content.readany()
    except TimeoutError:
        reason = f"nothing of the body came for {limits.BODY_IDLE_SECS:.0f} s"
        raise HttpError(408, reason) from None
    except (web.RequestPayloadError, ConnectionError) as problem:
        if request.transport is None:
            raise ConnectionResetError("the client went away while it sent a body") from problem
        raise HttpError(400, "the body ended early or is not well-formed") from problem
