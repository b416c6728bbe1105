"""Whether an upstream reads chunked bodies: as far as the gateway has learned, or by asking.

Wanted: an answer without a trace in the upstream.
A server that reads Content-Length only takes a chunked body for an empty one, and a careless one
stores that. So nothing is posted unless `--probe-chunked` asks for it, and what is posted then is
no envelope: an empty body and some text by their lengths, then the text again, chunked. It ends
with the first answer that could mean that something was stored. The three answers show what was
read only if those to the empty body and to the text differ; otherwise the result is "unknown".
Still wrong: a server that keeps even an empty body has one more entry then; the finding says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from fastjmix.config import Upstream
from fastjmix.tools.check.finding import Finding, State
from fastjmix.uploader.connections import Connections
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.upstream_facts import Coding, UpstreamFacts

WHAT: Final = "chunked bodies"

NO_ENVELOPE: Final = b"This is a test by `fastjmix check`, and no envelope.\n"

ANSWER_BYTES_MAX: Final = 64 * 1024

ANSWER_SECS: Final = 10.0
"""Seconds for each of the three answers: a server that waits for a body's end gives none."""

NOT_CHUNKED: Final = frozenset({411, 501})
"""Length Required (RFC 9110 §15.5.12), and what RFC 9112 §6.1 has for an unknown coding."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's status and body; status 0: none came, and `body` says why."""

    status: int
    body: bytes

    @property
    def stored(self) -> bool:
        """True when something may be stored now."""
        return 200 <= self.status < 300


def remembered(one: Upstream, where: str, known: Mapping[str, object] | None) -> Finding:
    """Returns what the gateway has learned of it (upstreams.json), without a request."""
    facts = UpstreamFacts(one.transfer_encoding, known)
    if facts.takes_chunked:
        return Finding("ok", WHAT, where, "read: an earlier delivery has proved it")
    if facts.fixed is Coding.LENGTH:
        return Finding("ok", WHAT, where, "not used (transfer_encoding)")
    hint = "--probe-chunked asks the upstream."
    if facts.fixed is Coding.CHUNKED:
        found = 'unknown, and transfer_encoding = "chunked" relies on them'
        return Finding("warning", WHAT, where, found, hint)
    found = "unknown: bodies go by their length until a delivery has proved that these are read"
    return Finding("ok", WHAT, where, found, hint)


async def probed(one: Upstream, where: str) -> Finding:
    """Returns what three posts of no envelope show."""
    connections = Connections(one, TimeLimits(), 1)
    try:
        empty = await _post(one, connections, b"", chunked=False)
        if empty.stored:
            return _keeps(where, empty, "an empty body")
        if empty.status in (0, 401, 403, 404, 405) or empty.status >= 500:
            return _cannot_post(where, empty)
        text = await _post(one, connections, NO_ENVELOPE, chunked=False)
        if text.stored:
            return _keeps(where, text, "a body that is no envelope")
        return _concluded(
            one, where, empty, text, await _post(one, connections, NO_ENVELOPE, chunked=True)
        )
    finally:
        await connections.close()


def _concluded(one: Upstream, where: str, empty: Reply, text: Reply, reply: Reply) -> Finding:
    if reply == text != empty:
        found = f"read: a chunked text got the answer to the same text ({reply.status})"
        return Finding("ok", WHAT, where, found)
    if reply.stored:
        return _keeps(where, reply, "a chunked body that is no envelope")
    state: State = "fault" if one.transfer_encoding == "chunked" else "ok"
    todo = 'Set transfer_encoding = "auto".' if state == "fault" else ""
    if reply.status in NOT_CHUNKED:
        return Finding(state, WHAT, where, f"refused with {reply.status}", todo)
    if reply == empty != text:
        found = f"not read: a chunked text got the answer to an empty body ({reply.status})"
        return Finding(state, WHAT, where, found, todo)
    if not reply.status:
        found = f"not read: {reply.body.decode()}, and to other bodies one came"
        return Finding(state, WHAT, where, found, todo)
    state = "warning" if state == "fault" else "ok"
    found = (
        f"unknown: the answers to an empty body ({empty.status}), a text ({text.status}) and a"
        f" chunked text ({reply.status}) do not tell them apart"
    )
    return Finding(state, WHAT, where, found)


def _cannot_post(where: str, reply: Reply) -> Finding:
    if not reply.status:
        return Finding("fault", WHAT, where, f"unknown: {reply.body.decode()}")
    hint = {
        401: "The credentials are refused.",
        403: "The credentials may not post envelopes.",
        404: "Check base_path and path_prefix.",
        405: "Check base_path and path_prefix.",
    }.get(reply.status, "Try again later.")
    found = f"unknown: a post is answered with {reply.status}"
    return Finding("fault", WHAT, where, found, hint)


def _keeps(where: str, reply: Reply, what: str) -> Finding:
    found = (
        f"unknown: {what} was answered with {reply.status}, so something may be stored there now"
    )
    return Finding("warning", WHAT, where, found, "Is that a JMIX server? Delete the entry there.")


async def _post(one: Upstream, connections: Connections, body: bytes, *, chunked: bool) -> Reply:
    """Posts a body on a connection of its own. Returns the answer, or why there is none."""
    headers = {"Content-Type": "application/zip", "Accept": "application/json"}
    if one.credentials is not None:
        headers |= dict([one.credentials.header()])
    secs = min(ANSWER_SECS, one.timeout_secs)
    try:
        async with (
            asyncio.timeout(secs),
            connections.use(single_use=True) as pool,
            pool.session.post(
                one.url,
                data=_pieces(body) if chunked else body,
                headers=headers,
                proxy_headers=pool.proxy_headers,
                allow_redirects=False,
            ) as response,
        ):
            return Reply(response.status, await _start_of(response.content))
    except TimeoutError:
        return Reply(0, b"no answer in %g s" % secs)
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        return Reply(0, f"no answer ({type(problem).__name__})".encode())


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yields a body whose length aiohttp does not know, so that it goes chunked."""
    yield body


async def _start_of(stream: aiohttp.StreamReader) -> bytes:
    """Returns the first ANSWER_BYTES_MAX bytes of an answer's body, or all of a shorter one."""
    kept = bytearray()
    while len(kept) < ANSWER_BYTES_MAX:
        piece = await stream.read(ANSWER_BYTES_MAX - len(kept))
        if not piece:
            break
        kept += piece
    return bytes(kept)
