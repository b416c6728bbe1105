"""Speaks HTTP with one upstream: an archive goes out, an answer or a failure comes back.

Wants an Upstream from the configuration, the path of an archive and what its bytes must be.
Guarantees: the archive is never held in memory (a few chunks at a time, read from the page cache);
its last chunk goes only when every byte was as sealed; the answer is bounded in size and in time;
redirects are not followed, answers are not decompressed, no cookie is kept, no proxy is taken from
the environment; TLS is always verified, 1.2 or later; the token leaves this process in one header
and in no log line. `post` and `manifest` never raise for what an upstream does: they return a
Failure. Decides nothing: what an answer means is delivery.py's.

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
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import aiohttp

from fastjmix import __version__
from fastjmix.config import Upstream
from fastjmix.config.tree import UPLOAD_RATE_MIN
from fastjmix.delivery import Answer, Coding, Dialect, Failure, Kind
from fastjmix.failpoints import reach
from fastjmix.intact import Damaged, Extents, Witness
from fastjmix.spool.reading import open_regular

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
    `rate` again), and for the question before the first upload.
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


class Courier:
    """One upstream, with its pool of kept-alive connections and what is known of its manners."""

    def __init__(self, upstream: Upstream, patience: Patience, connections: int) -> None:
        self._upstream = upstream
        self._patience = patience
        self._connections = connections
        self._dialect = Dialect(upstream.transfer_encoding)
        self._asked = False
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, archive: Path, extents: Extents) -> Answer | Failure:
        """One attempt to upload. Raises OSError when the archive cannot be opened.

        `extents` are what its bytes must be: else the body is broken off, and Damaged is raised.

        An idle connection that the upstream had closed, or a transfer coding that it does not
        know, costs no attempt: the body is sent again at once.
        """
        file = _Descriptor(archive)
        body: Body | None = None
        try:
            if self._dialect.coding() is None and not self._asked:
                await self._learn()
            for _ in range(self._connections + 2):
                secs = self._upstream.timeout_secs
                body = Body(file, Witness(extents), self._patience, secs)
                result = await self._send(body)
                if result is not None:
                    return result
            return Failure(Kind.BROKEN, "every connection was closed before an answer")
        except (aiohttp.ClientError, OSError, ValueError) as problem:  # TimeoutError is an OSError
            if body is not None and isinstance(body.problem, Damaged):
                raise body.problem from None
            return self._failure(problem, body)

    async def manifest(self, envelope_id: str, size_max: int) -> Answer | Failure:
        """GET {url}/{id}/manifest; at most `size_max` bytes of it."""
        try:
            url = f"{self._upstream.url.rstrip('/')}/{envelope_id}/manifest"
            headers = {"Accept": "application/json", **self._authorization()}
            return await self._ask("GET", url, headers, size_max)
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            return self._failure(problem, None)

    # -- one exchange ------------------------------------------------------------------------

    async def _learn(self) -> None:
        """Asks anything before the first body: whatever the answer, it tells the version.

        Once only: a guard before the upstream may swallow what it does not know. Without an
        answer the body goes with its length, which every version reads. Raises aiohttp's errors.
        """
        try:
            async with asyncio.timeout(self._patience.answer):
                self._dialect.heard(await self._ask("OPTIONS", self._upstream.url, {}))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise
        except TimeoutError:
            self._asked = True
        except aiohttp.ClientError:
            self._asked = True
            raise

    async def _send(self, body: Body) -> Answer | None:
        """POSTs the body once; None when it has to be sent once more."""
        coding = self._dialect.coding() or Coding.LENGTH
        headers = {"Content-Type": "application/zip", "Accept": "application/json"}
        if coding is Coding.LENGTH:
            headers["Content-Length"] = str(body.size)
        try:
            answer = await self._exchange(body, headers | self._authorization(), coding)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if body.reused and body.problem is None:
                return None
            raise
        return None if self._dialect.misspoken(coding, answer) else answer

    async def _exchange(self, body: Body, headers: Mapping[str, str], coding: Coding) -> Answer:
        async with asyncio.timeout(self._upstream.timeout_secs) as clock:
            body.clock = clock
            try:
                async with self._open().post(
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
            self._open().request(method, url, headers=headers, allow_redirects=False) as response,
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
        return Answer(
            status=response.status,
            version=(version[0], version[1]),
            headers={name.lower(): value for name, value in response.headers.items()},
            body=bytes(kept[:size_max]),
            whole=whole,
            cut=cut,
            over=len(kept) > size_max,
        )

    def _failure(self, problem: Exception, body: Body | None) -> Failure:
        """What went wrong, in words that hold nothing the upstream could have written."""
        sent = f"after {body.offset} of {body.size} bytes" if body else "before the body"
        match problem:
            case _ if body is not None and isinstance(body.problem, OSError):
                return Failure(Kind.LOCAL, f"{body.problem.strerror}, {sent}")
            case aiohttp.ClientConnectorCertificateError():
                return Failure(Kind.UNTRUSTED, str(problem.certificate_error))
            case aiohttp.ClientSSLError():
                return Failure(Kind.UNTRUSTED, str(problem.os_error))
            case ssl.SSLError():
                return Failure(Kind.UNTRUSTED, str(problem))
            case aiohttp.ConnectionTimeoutError():
                return Failure(
                    Kind.UNREACHABLE, f"none within {self._patience.connect:g} s", late=True
                )
            case aiohttp.ClientConnectorError():
                words = str(problem.os_error) or "closed before it was made (in a TLS handshake?)"
                return Failure(Kind.UNREACHABLE, words)
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

    def _open(self) -> aiohttp.ClientSession:
        """The session, made when first needed. Raises ssl.SSLError (the ca_file)."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections,
                ssl=self._tls() if self._upstream.url.startswith("https:") else True,
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": f"fastjmix/{__version__}",
                    "Accept-Encoding": "identity",
                },
                max_line_size=HEADER_LINE_BYTES_MAX,
                max_field_size=HEADER_LINE_BYTES_MAX,
                max_headers=HEADERS_MAX,
                timeout=aiohttp.ClientTimeout(
                    connect=self._patience.connect, sock_connect=self._patience.connect
                ),
                trace_configs=[_tracing()],
                trust_env=False,
            )
        return self._session

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
