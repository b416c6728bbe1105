"""Reads the query for a study, and links the envelopes of a study in a response.

Wanted: a client that asks for a study and gets one envelope learns that there are more, and where.
Guaranteed: both HTTP servers read and link alike, and link only where there are several envelopes.
The list has a URL of its own, so that it can be linked: a link cannot carry Accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from aiohttp import web

from fastjmix.httpd.negotiation import negotiate
from fastjmix.httpd.responses import JSON, ZIP, HttpError

STUDY: Final = "studyInstanceUid"
"""The parameter of a query that names a study."""

FORMAT: Final = "format"
"""The parameter of a query for the list, whatever Accept says; its value is "json"."""

WHOLE: Final = "whole"
"""The parameter of a query for all envelopes of a study in one ZIP (parts.py); its value is "1"."""

COUNT: Final = "X-Envelopes"
"""The header that counts the envelopes of a study, this one included."""


def study_of(request: web.Request) -> str | None:
    """Returns the query's studyInstanceUid; None when there is none. Raises HttpError 400."""
    given = set(request.query.getall(STUDY, []))
    if len(given) > 1:
        raise HttpError(400, "studyInstanceUid is given twice, with two values")
    study = given.pop().strip() if given else None
    if study == "":
        raise HttpError(400, "studyInstanceUid is empty")
    return study


def wanted_type(request: web.Request, offers: tuple[str, str] = (ZIP, JSON)) -> str:
    """Returns ZIP for one envelope, or JSON for the list; the first without a preference in Accept.

    Raises HttpError 400, 406.
    """
    given = set(request.query.getall(FORMAT, []))
    if not given:
        return negotiate(request, *offers)
    if given != {"json"}:
        raise HttpError(400, f"{FORMAT} can be json, or be left out")
    return JSON


def whole_wanted(request: web.Request) -> bool:
    """Returns whether one ZIP of all envelopes is wanted. Raises HttpError 400, 406."""
    given = set(request.query.getall(WHOLE, []))
    if not given:
        return False
    if given != {"1"}:
        raise HttpError(400, f"{WHOLE} can be 1, or be left out")
    if FORMAT in request.query:
        raise HttpError(400, f"{WHOLE} asks for a ZIP, and {FORMAT} for a list: give one of them")
    negotiate(request, ZIP)
    return True


def list_headers(collection: str, study: str, count: int) -> Mapping[str, str]:
    """Returns the headers of a response with one of `count` envelopes of a study; none for one.

    The link's relation is that of RFC 6573: the envelope is a member of the list.
    """
    if count < 2:
        return {}
    uid = quote(study, safe="", errors="replace")
    url = f"{quote(collection)}?{STUDY}={uid}&{FORMAT}=json"
    return {COUNT: str(count), "Link": f'<{url}>; rel="collection"; type="{JSON}"'}
