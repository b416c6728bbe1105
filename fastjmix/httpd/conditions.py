"""Evaluates the preconditions of a request: If-Match and If-None-Match (RFC 9110 §13.1).

An archive never changes, so that its entity tag (§8.8.3) is strong, and a date adds nothing.
"""

from __future__ import annotations

import re

from aiohttp import web

from fastjmix.httpd.responses import HttpError


def not_modified(request: web.Request, etag: str) -> bool:
    """Returns whether 304 is the response (§13.2.2, steps 1 and 3).

    Raises HttpError 412 when If-Match names another version (§13.1.1).
    """
    wanted = _entity_tags(request, "If-Match")
    if wanted and "*" not in wanted and etag not in wanted:
        raise HttpError(412, "If-Match names another version of this envelope", {"ETag": etag})
    held = _entity_tags(request, "If-None-Match")
    # §13.1.2: weak comparison (§8.8.3.2)
    return "*" in held or etag in [tag.removeprefix("W/") for tag in held]


def _entity_tags(request: web.Request, name: str) -> list[str]:
    return re.findall(r'\*|(?:W/)?"[^"]*"', ",".join(request.headers.getall(name, [])))
