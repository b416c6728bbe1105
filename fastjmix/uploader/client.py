"""Speaks HTTP with one upstream: an archive goes out, an answer or a failure comes back.

Wants an Upstream from the configuration, the path of an archive and what its bytes must be.
Guaranteed: the answer is bounded in size and in time; redirects are not followed; the token leaves
this process in one header and in no log line. `post` and `manifest` never raise for what an
upstream does: they return a Failure. This module decides nothing: the meaning of an answer
is in policy.py.

Time is counted three ways. Until the body flows, and from its last byte to the answer's headers:
Upstream.timeout_secs each. While it flows: TimeLimits.stall without progress, and
TimeLimits.rate over the whole. So a large envelope on a slow line has the time that it needs, and
silence ends soon.

Still wrong: a reset right behind an early refusal can swallow the refusal; the attempt then counts
as broken and is repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from fastjmix.config import Upstream
from fastjmix.uploader.answers import Answer
from fastjmix.uploader.connections import Connections, Pool
from fastjmix.uploader.content_coding import decoded
from fastjmix.uploader.integrity import BodyCheck, Damaged, Extents
from fastjmix.uploader.outcome import Failure, Kind
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.request_body import ArchiveFile, RequestBody
from fastjmix.uploader.throttle import Throttle
from fastjmix.uploader.upstream_facts import Coding

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Bytes of an answer's body. An id and an error message need a few hundred."""

_NOT_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"))
"""OpenSSL's reasons when bytes come that are no TLS record."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a POST, and how many bodies were begun for it."""

    result: Answer | Failure
    bodies: int


class UpstreamClient:
    """HTTP with one upstream. `host` is its name, and its port where the URL has one."""

    def __init__(
        self,
        upstream: Upstream,
        limits: TimeLimits,
        connections: int,
        throttle: Throttle | None = None,
    ) -> None:
        self._upstream = upstream
        parts = urlsplit(upstream.url)  # its netloc may hold a password
        name = parts.hostname or ""
        self.host = name if parts.port is None else f"{name}:{parts.port}"
        self._limits = limits
        self._throttle = throttle or Throttle(None)
        self._bodies_max = connections + 2
        self._connections = Connections(upstream, limits, connections)

    async def close(self) -> None:
        """Closes the connections."""
        await self._connections.close()

    async def post(
        self,
        archive: Path,
        extents: Extents,
        coding: Coding,
        takes: Callable[[Answer], bool],
        *,
        single_use: bool = False,
    ) -> Sent:
        """Uploads an archive. Raises OSError when it cannot be opened.

        `extents` are what its bytes must be: else the body is broken off, and Damaged is raised.
        `takes` returns whether an answer means that the body was read, so that its connection can
        be used again. `single_use`: on a connection of its own, whatever the answer, since it may
        have left the body unread.

        On an idle connection that the upstream had closed the body is sent again at once.
        """
        file = ArchiveFile(archive)
        body: RequestBody | None = None
        bodies = 0
        try:
            while bodies < self._bodies_max:
                secs = self._upstream.timeout_secs
                body = RequestBody(file, BodyCheck(extents), self._limits, secs, self._throttle)
                bodies += 1
                answer = await self._send(body, coding, takes, single_use=single_use)
                if answer is not None:
                    return Sent(answer, bodies)
            failure = Failure(Kind.BROKEN, "every connection was closed before an answer")
        except aiohttp.ClientHttpProxyError as problem:
            return Sent(self._refused_by_proxy(problem), bodies)
        except (aiohttp.ClientError, OSError, ValueError) as problem:  # TimeoutError is an OSError
            if body is not None and isinstance(body.problem, Damaged):
                raise body.problem from None
            failure = self._failure(problem, body)
        return Sent(failure, bodies)

    async def manifest(self, envelope_id: str, size_max: int) -> Answer | Failure:
        """Fetches {url}/{id}/manifest; at most `size_max` bytes of it."""
        try:
            url = f"{self._upstream.url.rstrip('/')}/{envelope_id}/manifest"
            headers = {"Accept": "application/json", **self._authorization()}
            async with (
                asyncio.timeout(self._upstream.timeout_secs) as clock,
                self._connections.use() as pool,
                pool.session.get(
                    url,
                    headers=headers,
                    proxy_headers=pool.proxy_headers,
                    allow_redirects=False,
                ) as response,
            ):
                clock.reschedule(None)
                return await self._answer(response, size_max, whole=True)
        except aiohttp.ClientHttpProxyError as problem:
            return self._refused_by_proxy(problem)
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            return self._failure(problem, None)

    # -- one exchange ------------------------------------------------------------------------

    async def _send(
        self,
        body: RequestBody,
        coding: Coding,
        takes: Callable[[Answer], bool],
        *,
        single_use: bool,
    ) -> Answer | None:
        """Sends the body once. Returns None when it has to be sent once more."""
        headers = {"Content-Type": "application/zip", "Accept": "application/json"}
        if coding is Coding.LENGTH:
            headers["Content-Length"] = str(body.size)
        try:
            headers |= self._authorization()
            async with self._connections.use(single_use=single_use) as pool:
                answer = await self._exchange(body, headers, coding, pool)
                if not takes(answer):
                    self._connections.retire(pool)
                return answer
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if body.reused and body.problem is None:
                return None
            raise

    async def _exchange(
        self,
        body: RequestBody,
        headers: Mapping[str, str],
        coding: Coding,
        pool: Pool,
    ) -> Answer:
        async with asyncio.timeout(self._upstream.timeout_secs) as clock:
            body.clock = clock
            try:
                async with pool.session.post(
                    self._upstream.url,
                    data=body,
                    headers=headers,
                    proxy_headers=pool.proxy_headers,
                    chunked=True if coding is Coding.CHUNKED else None,
                    allow_redirects=False,
                    trace_request_ctx=body,
                ) as response:
                    whole = body.whole
                    body.clock = None
                    clock.reschedule(None)
                    return await self._answer(response, ANSWER_BYTES_MAX, whole=whole)
            finally:
                body.clock = None

    async def _answer(
        self, response: aiohttp.ClientResponse, size_max: int, *, whole: bool
    ) -> Answer:
        """Reads as much of the answer's body as comes within the bounds.

        Its status is known already, and counts whatever becomes of the body.
        """
        kept = bytearray()
        cut = True
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(self._limits.answer + size_max / self._limits.rate):
                while len(kept) <= size_max:
                    piece = await response.content.read(size_max + 1 - len(kept))
                    if not piece:
                        break
                    kept += piece
            cut = False
        if not whole or not response.content.at_eof():
            response.close()  # the rest of either body is not waited for
        version = response.version or (1, 1)
        coding = response.headers.get("Content-Encoding", "")
        body = decoded(bytes(kept), coding, size_max + 1)
        return Answer(
            status=response.status,
            version=(version[0], version[1]),
            headers={name.lower(): value for name, value in response.headers.items()},
            body=body[:size_max],
            whole=whole,
            cut=cut,
            over=max(len(kept), len(body)) > size_max,
        )

    def _authorization(self) -> dict[str, str]:
        credentials = self._upstream.credentials
        return dict([credentials.header()]) if credentials is not None else {}

    def _refused_by_proxy(self, problem: aiohttp.ClientHttpProxyError) -> Answer | Failure:
        """Returns what a proxy's refusal of a tunnel means: 407 is about our credentials for it."""
        if problem.status == 407:
            return Answer(407, whole=False)
        words = f"the proxy answers {problem.status} to CONNECT {self.host}"
        return Failure(Kind.UNREACHABLE, words)

    def _failure(self, problem: Exception, body: RequestBody | None) -> Failure:
        """Returns the failure, in words that hold nothing which the upstream could have written."""
        sent = f"after {body.offset} of {body.size} bytes" if body else "before the body"
        match problem:
            case _ if body is not None and isinstance(body.problem, OSError):
                return Failure(Kind.LOCAL, f"{body.problem.strerror}, {sent}")
            case aiohttp.ClientConnectorCertificateError():
                return Failure(Kind.UNTRUSTED, f"{self.host}: {problem.certificate_error}")
            case aiohttp.ClientSSLError():
                return Failure(Kind.UNTRUSTED, f"{self.host}: {tls_problem(problem.os_error)}")
            case ssl.SSLError():
                return Failure(Kind.UNTRUSTED, f"{self.host}: {problem}")
            case aiohttp.ConnectionTimeoutError():
                words = f"none within {self._limits.connect:g} s to {self.host}"
                return Failure(Kind.UNREACHABLE, words, late=True)
            case aiohttp.ClientProxyConnectionError():
                return Failure(Kind.UNREACHABLE, f"the proxy cannot be reached: {problem.os_error}")
            case aiohttp.ClientConnectorError():
                words = str(problem.os_error) or "closed before it was made (in a TLS handshake?)"
                return Failure(Kind.UNREACHABLE, f"{self.host}: {words}")
            case TimeoutError() if body is not None and body.offset and not body.whole:
                return Failure(Kind.STALLED, f"{body.missed_limit()}, {sent}", late=True)
            case TimeoutError():
                limit = f"timeout_secs = {self._upstream.timeout_secs:g}"
                return Failure(Kind.LATE, f"{limit} were over {sent}", late=True)
            case aiohttp.ClientResponseError():
                return Failure(Kind.BROKEN, f"the answer is not HTTP, {sent}")
            case OSError():
                words = os.strerror(problem.errno) if problem.errno else "closed"
                return Failure(Kind.BROKEN, f"{words}, {sent}")
            case aiohttp.ServerDisconnectedError():
                return Failure(Kind.BROKEN, f"closed without an answer, {sent}")
            case _:
                return Failure(Kind.BROKEN, f"{type(problem).__name__}, {sent}")


def tls_problem(problem: Exception) -> str:
    """Returns the problem of a TLS handshake; a plain HTTP port is named."""
    if isinstance(problem, ssl.SSLError) and problem.reason in _NOT_TLS:
        return "its answer is not TLS: is it a plain http port behind an https address?"
    return str(problem)
