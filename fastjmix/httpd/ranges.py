"""Reads Range and If-Range (RFC 9110 §14.2, §13.1.5): one range of bytes.

Still wrong: several ranges in one request get the whole archive, as §14.2 allows.
"""

from __future__ import annotations

import re

from aiohttp import web

from fastjmix.httpd.responses import HttpError


def byte_range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """Returns (first byte, length) of a single range; None for the whole. Raises HttpError 416."""
    if request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return None
    header = request.headers.get("Range", "").strip().lower()
    parts = re.fullmatch(r"bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})", header)
    if parts is None or not any(parts.groups()):
        return None
    first, last = parts.groups()
    start = int(first) if first else max(0, size - int(last))  # else a suffix range
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None  # §14.1.1: an int-range that is invalid is ignored
    if start >= size or (not first and int(last) == 0):
        reason = f"Range is outside the {size} bytes of this envelope"
        raise HttpError(416, reason, {"Content-Range": f"bytes */{size}"})  # §15.5.17
    return start, stop - start
