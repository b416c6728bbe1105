"""Chooses the content type of a response by Accept (RFC 9110 §12.5.1).

Guaranteed: a media range that is not well-formed is left out; no Accept at all accepts anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from aiohttp import web

from fastjmix.httpd.responses import HttpError


def negotiate(request: web.Request, *offers: str) -> str:
    """Returns the offer with the highest weight.

    Where weights are equal, a type that Accept names exactly comes before one that it names by a
    range; then the first counts. Raises HttpError 406.
    """
    header = ",".join(request.headers.getall("Accept", [])).strip()
    if not header:
        return offers[0]
    accepted = _media_ranges(header)
    best = max(offers, key=lambda offer: _weight(offer, accepted))
    if _weight(best, accepted)[0] <= 0:
        raise HttpError(406, f"Accept allows none of: {', '.join(offers)}")
    return best


def _media_ranges(header: str) -> list[tuple[str, float]]:
    """Returns the media ranges of Accept and their weights (§12.4.2)."""
    found = []
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        if re.fullmatch(r"[^/\s]+/[^/\s]+", name) and re.fullmatch(r"[01](\.\d{0,3})?", weight):
            found.append((name, float(weight)))
    return found


def _weight(offer: str, accepted: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """Returns the weight of an offer, and how specific the range is: the most specific counts."""
    patterns = (offer, offer.partition("/")[0] + "/*", "*/*")
    for specificity, pattern in zip((2, 1, 0), patterns, strict=True):
        for name, weight in accepted:
            if name == pattern:
                return weight, specificity
    return 0.0, 0
