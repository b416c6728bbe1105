"""Serves the page's style and scripts, which are part of the package.

Guaranteed: names are those of the files that were there at the start: no path is made of a request.
A browser asks each time whether its copy is current, and gets 304 (RFC 9110 §15.4.5) if it is: so a
page never runs with the scripts of another version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from aiohttp import web

from fastjmix.httpd.conditions import not_modified
from fastjmix.httpd.responses import HttpError

TYPES: Final[Mapping[str, str]] = {".css": "text/css", ".js": "text/javascript"}

PLACE: Final = "/page/"
"""The path below which the files are."""

_assets = files("fastjmix.api.page") / "assets"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file. `etag` is its entity tag (RFC 9110 §8.8.3), quoted."""

    body: bytes
    content_type: str
    etag: str


def document() -> str:
    """Returns the text of the HTML document, with its placeholders. Raises OSError."""
    return (_assets / "page.html").read_text("utf-8")


def assets() -> Mapping[str, Asset]:
    """Returns the style and the scripts by path. Raises OSError."""
    found = {}
    for file in _assets.iterdir():
        kind = TYPES.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            body = file.read_bytes()
            digest = hashlib.sha256(body).hexdigest()[:32]
            found[PLACE + file.name] = Asset(body, kind, f'"{digest}"')
    return found


def respond(request: web.Request, asset: Asset) -> web.Response:
    """Returns 200 with the file, or 304 for a copy that is current. Raises HttpError 412."""
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache"}
    try:
        current = not_modified(request, asset.etag)
    except HttpError as refusal:
        raise HttpError(412, "If-Match names another version of this file", headers) from refusal
    if current:
        return web.Response(status=304, headers=headers)
    return web.Response(
        body=asset.body, headers=headers, content_type=asset.content_type, charset="utf-8"
    )
