"""Decides who may act on envelopes, and in whose name.

Guaranteed: over TCP an action needs the listener's credentials, and a listener without any takes
none. A browser that another site's page leads here says so in Sec-Fetch-Site or Origin, and is
refused; the content type of an action is one that no form sends. Over the local socket the kernel
says who asks.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from fastjmix.control.peer import Peer, peer_of
from fastjmix.httpd.responses import JSON, HttpError

OWN_SITE: Final = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a page of ours, and for an address that a person has typed (Fetch
Metadata Request Headers §2.4)."""


class Callers(Protocol):
    """The callers of one listener."""

    async def actor(self, request: web.Request) -> str:
        """Returns who acts, for the ledger. Raises HttpError 403."""


class RemoteCallers:
    """Callers over TCP. `identified`: the listener has credentials, which were checked."""

    def __init__(self, identified: bool) -> None:
        self._identified = identified

    async def actor(self, request: web.Request) -> str:
        """Returns "http <address>". Raises HttpError 403, 415."""
        if not self._identified:
            reason = (
                "no action without credentials: configure authentication_ref of this endpoint, or"
                " use fastjmix outbox on the node"
            )
            raise HttpError(403, reason)
        _refuse_other_sites(request)
        if request.content_type != JSON:
            raise HttpError(415, f"send {JSON}")
        return f"http {request.remote}"


def _refuse_other_sites(request: web.Request) -> None:
    """Raises HttpError 403 for a request that a page of another site has caused."""
    site = request.headers.get("Sec-Fetch-Site", "none").lower()
    origin = request.headers.get("Origin")
    own = origin is None or _authority(origin) == request.headers.get("Host", "").lower()
    if site not in OWN_SITE or not own:
        raise HttpError(403, "no action for a page of another site")


def _authority(origin: str) -> str | None:
    """Returns host and port of an Origin (RFC 6454 §6.2); None for one without ("null")."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


class LocalCallers:
    """Callers over the local socket. It is the access rule of that, too (httpd/credentials.py)."""

    def check(self, request: web.Request) -> None:
        """Raises HttpError 403 for another user than this node's and root."""
        if not _peer(request).allowed:
            raise HttpError(403, "this socket is for the user of the node, and for root")

    async def actor(self, request: web.Request) -> str:
        """Returns "uid 1000 name"."""
        return await asyncio.to_thread(_peer(request).named)


def _peer(request: web.Request) -> Peer:
    """Raises HttpError 403 when the peer is gone."""
    try:
        return peer_of(request.get_extra_info("socket"))
    except (OSError, AttributeError):
        raise HttpError(403, "nobody can say who asks") from None
