"""Speaks HTTP with one upstream: an archive goes out, an answer or a failure comes back.

Wants an Upstream from the configuration, the path of an archive and what its bytes must be.
Guarantees: the archive is never held in memory (a few chunks at a time, read from the page cache);
its last chunk goes only when every byte was as sealed; the answer is bounded in size and in time;
redirects are not followed, no cookie is kept, no proxy is taken from the environment; TLS is always
verified, 1.2 or later; the token leaves this process in one header and in no log line. `post` and
`manifest` never raise for what an upstream does: they return a Failure. Decides nothing: what an
answer means is policy.py's.

Time is counted three ways. Until the body flows, and from its last byte to the answer's headers:
Upstream.timeout_secs each. While it flows: Patience.stall without progress, and RATE_MIN over all.
So a large envelope on a slow line has the time that it needs, and silence ends soon.

Still wrong: a reset right behind an early refusal can swallow the refusal; the attempt then counts
as broken and is repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from fastjmix._version import __version__
from fastjmix.config import Upstream
from fastjmix.config.tree import UPLOAD_RATE_MIN
from fastjmix.failpoints import reach
from fastjmix.spool.reading import open_regular
from fastjmix.uploader.answers import Answer
from fastjmix.uploader.content_coding import decoded
from fastjmix.uploader.integrity import Damaged, Extents, Witness
from fastjmix.uploader.policy import Failure, Kind
from fastjmix.uploader.upstream_facts import Coding

CHUNK_BYTES: Final = 256 * 1024
"""Of the archive in one read and one write: large enough that Python's share of the work is small
(1 ms of it moves 10 MB), small enough that four uploads hold a few MB."""

ANSWER_BYTES_MAX: Final = 64 * 1024
"""Of an answer's body. An id and an error message need a few hundred bytes."""

HEADER_LINE_BYTES_MAX: Final = 8190
"""Of one header line; and at most HEADERS_MAX of them."""

HEADERS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds, beside Upstream.timeout_secs.

    `stall` is the time without progress while the body flows, `rate` the bytes a second that it
    must reach over all; `answer` is for the body of an answer whose status is already known (and
    `rate` again).
    """

    connect: float = 10.0
    stall: float = 30.0
    answer: float = 10.0
    rate: float = UPLOAD_RATE_MIN


class _Descriptor:
    """A file open for reading; it closes with its last user, who may still be in a thread."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = open_regular(path)
        self.size = os.fstat(self.number).st_size
        os.posix_fadvise(self.number, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, size: int, offset: int) -> bytes:
        """May wait for the disk."""
        return os.pread(self.number, size, offset)

    def cached(self, size: int, offset: int) -> bytearray | None:
        """What the page cache has of it, without waiting; None when it has nothing."""
        buffer = bytearray(size)
        try:
            found = os.preadv(self.number, [buffer], offset, os.RWF_NOWAIT)
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.EOPNOTSUPP):  # not cached; tmpfs and others
                return None
            raise
        del buffer[found:]
        return buffer

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class Body:
    """The archive, chunk by chunk, and how far it has gone.

    `clock` is moved on whenever a chunk has gone, and by `answer_secs` when the last one has.
    """

    def __init__(
        self, file: _Descriptor, witness: Witness, patience: Patience, answer_secs: float
    ) -> None:
        self._file = file
        self._witness = witness
        self._patience = patience
        self._answer_secs = answer_secs
        self._began: float | None = None
        self.clock: asyncio.Timeout | None = None
        self.size = file.size
        self.offset = 0
        self.problem: OSError | Damaged | None = None
        self.reused = False

    @property
    def whole(self) -> bool:
        """True when the last byte has been handed to the connection."""
        return self.offset == self.size

    def waited_for(self) -> str:
        """What did not come, when the clock has run out."""
        assert self._began is not None
        secs, rate = self._patience.stall, self._patience.rate
        if asyncio.get_running_loop().time() >= self._began + self.size / rate:
            return f"slower than {rate:g} bytes a second"
        return f"none for {secs:g} s"

    def _moved(self) -> None:
        if self.clock is None:
            return
        now = asyncio.get_running_loop().time()
        if self.whole:
            self.clock.reschedule(now + self._answer_secs)
            return
        if self._began is None:
            self._began = now
        least = self._began + self.size / self._patience.rate
        self.clock.reschedule(min(now, least) + self._patience.stall)

    async def __aiter__(self) -> AsyncIterator[bytes | bytearray]:
        """Asked for the next chunk only when the connection has room, which is the progress."""
        while not self.whole:
            self._moved()
            try:
                chunk = await self._next(min(CHUNK_BYTES, self.size - self.offset))
                self._witness.see(chunk)
            except (OSError, Damaged) as problem:
                self.problem = problem
                raise
            self.offset += len(chunk)
            yield chunk
            reach("uploader.body")
        self._moved()

    async def _next(self, size: int) -> bytes | bytearray:
        chunk: bytes | bytearray | None = self._file.cached(size, self.offset)
        if not chunk:
            chunk = await asyncio.to_thread(self._file.read, size, self.offset)
        if not chunk:
            raise OSError(errno.EIO, "the archive became shorter while it was read")
        return chunk


@dataclass(frozen=True, slots=True)
class Sent:
    """The outcome of a POST, and how many bodies were begun for it."""

    result: Answer | Failure
    bodies: int


@dataclass(slots=True)
class _Pool:
    """Connections, and how many use them; once it is retired it closes with its last user."""

    session: aiohttp.ClientSession
    users: int = 0
    retired: bool = False


_NOT_TLS: Final = frozenset(("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"))
"""OpenSSL's reasons when bytes come that are no TLS record."""


def _tls_words(problem: Exception) -> str:
    """Returns what was wrong with a TLS handshake; a plain HTTP port is named."""
    if isinstance(problem, ssl.SSLError) and problem.reason in _NOT_TLS:
        return "its answer is not TLS: is it a plain http port behind an https address?"
    return str(problem)


class Courier:
    """One upstream, with its pool of kept-alive connections, and others that are used once.

    After an answer that takes no envelope the pool is another: a server that has left the body
    unread, or a part of it, takes that for the next request, and its answer must not be the answer
    to another body. A page with 200 is such an answer, too.
    """

    def __init__(self, upstream: Upstream, patience: Patience, connections: int) -> None:
        self._upstream = upstream
        parts = urlsplit(upstream.url)  # its netloc may hold a password
        self._host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        self._patience = patience
        self._connections = connections
        self._pools: dict[bool, _Pool] = {}

    async def close(self) -> None:
        """Closes the connections."""
        while self._pools:
            await self._pools.popitem()[1].session.close()

    async def post(
        self,
        archive: Path,
        extents: Extents,
        coding: Coding,
        takes: Callable[[Answer], bool],
        *,
        once: bool = False,
    ) -> Sent:
        """Uploads an archive. Raises OSError when it cannot be opened.

        `extents` are what its bytes must be: else the body is broken off, and Damaged is raised.
        `takes` tells whether an answer means that the body was read: its connection is used again.
        `once`: on a connection of its own, whatever the answer: it may have left the body unread.

        On an idle connection that the upstream had closed the body is sent again at once.
        """
        file = _Descriptor(archive)
        body: Body | None = None
        bodies = 0
        try:
            while bodies < self._connections + 2:
                secs = self._upstream.timeout_secs
                body = Body(file, Witness(extents), self._patience, secs)
                bodies += 1
                answer = await self._send(body, coding, takes, once=once)
                if answer is not None:
                    return Sent(answer, bodies)
            failure = Failure(Kind.BROKEN, "every connection was closed before an answer")
        except (aiohttp.ClientError, OSError, ValueError) as problem:  # TimeoutError is an OSError
            if body is not None and isinstance(body.problem, Damaged):
                raise body.problem from None
            failure = self._failure(problem, body)
        return Sent(failure, bodies)

    async def manifest(self, envelope_id: str, size_max: int) -> Answer | Failure:
        """GET {url}/{id}/manifest; at most `size_max` bytes of it."""
        try:
            url = f"{self._upstream.url.rstrip('/')}/{envelope_id}/manifest"
            headers = {"Accept": "application/json", **self._authorization()}
            return await self._ask("GET", url, headers, size_max)
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            return self._failure(problem, None)

    # -- one exchange ------------------------------------------------------------------------

    async def _send(
        self, body: Body, coding: Coding, takes: Callable[[Answer], bool], *, once: bool
    ) -> Answer | None:
        """POSTs the body once; None when it has to be sent once more."""
        headers = {"Content-Type": "application/zip", "Accept": "application/json"}
        if coding is Coding.LENGTH:
            headers["Content-Length"] = str(body.size)
        try:
            headers |= self._authorization()
            async with self._pool(once=once) as pool:
                answer = await self._exchange(body, headers, coding, pool.session)
                if not takes(answer):
                    self._retire(pool)
                return answer
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if body.reused and body.problem is None:
                return None
            raise

    async def _exchange(
        self,
        body: Body,
        headers: Mapping[str, str],
        coding: Coding,
        session: aiohttp.ClientSession,
    ) -> Answer:
        async with asyncio.timeout(self._upstream.timeout_secs) as clock:
            body.clock = clock
            try:
                async with session.post(
                    self._upstream.url,
                    data=body,
                    headers=headers,
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

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], size_max: int = ANSWER_BYTES_MAX
    ) -> Answer:
        async with (
            asyncio.timeout(self._upstream.timeout_secs) as clock,
            self._pool() as pool,
            pool.session.request(method, url, headers=headers, allow_redirects=False) as response,
        ):
            clock.reschedule(None)
            return await self._answer(response, size_max, whole=True)

    async def _answer(
        self, response: aiohttp.ClientResponse, size_max: int, *, whole: bool
    ) -> Answer:
        """Reads what comes of the body within the bounds: the status is known, and counts."""
        kept = bytearray()
        cut = True
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(self._patience.answer + size_max / self._patience.rate):
                while len(kept) <= size_max:
                    piece = await response.content.read(size_max + 1 - len(kept))
                    if not piece:
                        break
                    kept += piece
            cut = False
        if not whole or not response.content.at_eof():
            response.close()  # the rest, either way, is not waited for
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

    def _failure(self, problem: Exception, body: Body | None) -> Failure:
        """What went wrong, in words that hold nothing the upstream could have written."""
        sent = f"after {body.offset} of {body.size} bytes" if body else "before the body"
        match problem:
            case _ if body is not None and isinstance(body.problem, OSError):
                return Failure(Kind.LOCAL, f"{body.problem.strerror}, {sent}")
            case aiohttp.ClientConnectorCertificateError():
                return Failure(Kind.UNTRUSTED, f"{self._host}: {problem.certificate_error}")
            case aiohttp.ClientSSLError():
                return Failure(Kind.UNTRUSTED, f"{self._host}: {_tls_words(problem.os_error)}")
            case ssl.SSLError():
                return Failure(Kind.UNTRUSTED, str(problem))
            case aiohttp.ConnectionTimeoutError():
                words = f"none within {self._patience.connect:g} s to {self._host}"
                return Failure(Kind.UNREACHABLE, words, late=True)
            case aiohttp.ClientConnectorError():
                words = str(problem.os_error) or "closed before it was made (in a TLS handshake?)"
                return Failure(Kind.UNREACHABLE, f"{self._host}: {words}")
            case TimeoutError() if body is not None and body.offset and not body.whole:
                return Failure(Kind.STALLED, f"{body.waited_for()}, {sent}", late=True)
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

    # -- the pool ----------------------------------------------------------------------------

    def _authorization(self) -> dict[str, str]:
        credentials = self._upstream.credentials
        return dict([credentials.header()]) if credentials is not None else {}

    @contextlib.asynccontextmanager
    async def _pool(self, *, once: bool = False) -> AsyncIterator[_Pool]:
        """Returns a pool, made when first needed. Raises ssl.SSLError (the ca_file)."""
        pool = self._pools.get(once)
        if pool is None:
            pool = self._pools[once] = _Pool(self._session(once=once))
        pool.users += 1
        try:
            yield pool
        finally:
            pool.users -= 1
            if pool.retired and not pool.users:
                await pool.session.close()

    def _retire(self, pool: _Pool) -> None:
        if not pool.retired:
            pool.retired = True
            self._pools = {once: each for once, each in self._pools.items() if each is not pool}

    def _session(self, *, once: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=self._connections,
            force_close=once,
            ssl=self._tls() if self._upstream.url.startswith("https:") else True,
            socket_factory=self._socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": f"fastjmix/{__version__}", "Accept-Encoding": "identity"},
            max_line_size=HEADER_LINE_BYTES_MAX,
            max_field_size=HEADER_LINE_BYTES_MAX,
            max_headers=HEADERS_MAX,
            timeout=aiohttp.ClientTimeout(
                connect=self._patience.connect, sock_connect=self._patience.connect
            ),
            trace_configs=[_tracing()],
            trust_env=False,
        )

    def _tls(self) -> ssl.SSLContext:
        """With a ca_file, that authority and no other is trusted."""
        try:
            context = ssl.create_default_context(cafile=self._upstream.ca_file)
        except OSError as problem:
            raise ssl.SSLError(f"ca_file {self._upstream.ca_file}: {problem.strerror}") from problem
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        """The kernel gives up on bytes it cannot place either: its buffer holds megabytes."""
        made = socket.socket(address[0], address[1], address[2])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        millis = max(1, int(self._patience.stall * 1000))
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, millis)
        # What the kernel has not sent is not progress: it asks for more when little is left.
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, CHUNK_BYTES)
        return made


def _tracing() -> aiohttp.TraceConfig:
    """Tells a Body that its connection had been used before, and may be stale."""

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        body = context.trace_request_ctx
        if isinstance(body, Body):
            body.reused = True

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config
