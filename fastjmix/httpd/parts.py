"""Says that an answer is one of several envelopes of a study.

Wanted: whoever asks for a study and gets one envelope knows that there are more, and where.
Guaranteed: both HTTP servers say it alike, and only where there are several. The list has a URL of
its own, so that it can be linked: a link cannot say what the reader is to accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from aiohttp import web

from fastjmix.httpd.server import JSON, ZIP, HttpError, negotiate

COUNT: Final = "X-Envelopes"
"""The header that counts the envelopes of a study, this one included."""

FORMAT: Final = "format"
"""The parameter of a query that wants the list, whatever Accept says; its value is "json"."""


def wanted_of(request: web.Request, offers: tuple[str, str] = (ZIP, JSON)) -> str:
    """Returns ZIP or JSON: one envelope, or the list; the first where Accept has no preference.
    Raises HttpError 400, 406."""
    given = set(request.query.getall(FORMAT, []))
    if not given:
        return negotiate(request, *offers)
    if given != {"json"}:
        raise HttpError(400, f"{FORMAT} can be json, or be left out")
    return JSON


def parts_headers(collection: str, study: str, count: int) -> Mapping[str, str]:
    """Returns the headers of an answer with one of `count` envelopes of a study; none for one.

    The link's relation is that of RFC 6573: the list has what is answered among its members.
    """
    if count < 2:
        return {}
    uid = quote(study, safe="", errors="replace")
    url = f"{quote(collection)}?studyInstanceUid={uid}&{FORMAT}=json"
    return {COUNT: str(count), "Link": f'<{url}>; rel="collection"; type="{JSON}"'}
