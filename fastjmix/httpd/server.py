"""What the two HTTP servers share (the API's listeners and the embedded store): manners, no routes.

Wanted: both answer alike. Content negotiation (RFC 9110 §12.5.1), entity tags and conditions
(§13.1), one byte range (§14), credentials (§11.4), errors as {"error": …}, one log line a request.
Guaranteed: no body is held in memory, in either direction; every bound is a named number below; a
request body is read as it was sent (a Content-Encoding is refused, never undone); an archive is
open before its first header is sent, so that a 200 is never cut short by a rename or a removal;
connections are bounded where they are accepted (connection_limit.py).
Still wrong: several ranges in one request are answered with the whole archive, as §14.2 allows.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import logging
import os
import re
import socket
import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, NamedTuple

import orjson
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractAccessLogger

from fastjmix import log
from fastjmix.errors import EnvelopeError
from fastjmix.httpd.connection_limit import HEADERS, Door, DoorSite
from fastjmix.httpd.upload_body import BodyFile
from fastjmix.jmix.faults import Unforeseen

ZIP: Final = "application/zip"
JSON: Final = "application/json"
ZIP_NAMES: Final = frozenset({ZIP, "application/x-zip-compressed", "application/octet-stream"})
"""Content types of a posted archive: the registered one, Windows's, and that of clients which do
not know what they send. The bytes of the archive decide its type."""
SHOWN_TYPE: Final = 80
"""Characters of a content type that a refusal repeats."""

MAX_CONNECTIONS: Final = 512
"""Connections a listener answers at once: well under the usual limit of 1024 descriptors."""
SPARE_CONNECTIONS: Final = 64
"""Beyond those: that many are told 503 if they ask something, all others are closed at once."""
MAX_CONNECTIONS_EACH: Final = 256
"""Connections of one address: no single one takes all, and a proxy before us has plenty."""
MAX_UPLOADS: Final = 4
"""Archives received at once; each costs a descriptor, a thread's time and disk bandwidth."""
KEEPALIVE_SECS: Final = 75.0
"""A connection without a whole request is closed after this: idle and slow headers alike."""
BODY_IDLE_SECS: Final = 60.0
"""Longest silence within a request body."""
BODY_RATE_MIN: Final = 1024
"""Bytes per second that a body must reach on average, after its first BODY_IDLE_SECS."""
WRITE_STALL_SECS: Final = 60.0
"""Longest time in which a client takes none of an answer."""
ANSWER_RATE_MIN: Final = 16 * 1024
"""Bytes per second of an answer that a client must take, after its first WRITE_STALL_SECS."""
LINGER_SECS: Final = 5.0
"""How long the rest of a refused body is drained, so that the client can read the refusal."""
PIECE_BYTES: Final = 1 << 20
"""Bytes read at once by a worker thread."""
MAX_HEADERS: Final = 64
MAX_LINE_BYTES: Final = 8190
SHOWN_PATH: Final = 200
"""Characters of a path that a log line repeats."""

LOST: Final = "fastjmix.lost"
"""Key in a request: its connection ended before its answer did."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class HttpError(Exception):
    """An answer that is not a success: status, one sentence, and headers that belong to it."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def json_answer(
    content: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """JSON text; `content` may be bytes that are JSON already."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


# -- negotiation ---------------------------------------------------------------------------------


def _accepted(header: str) -> list[tuple[str, float]]:
    """Media ranges and their weights. What cannot be read is left out."""
    found = []
    for element in header.split(","):
        name, *parameters = (part.strip().lower() for part in element.split(";"))
        weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        if re.fullmatch(r"[^/\s]+/[^/\s]+", name) and re.fullmatch(r"[01](\.\d{0,3})?", weight):
            found.append((name, float(weight)))
    return found


def _weight(offer: str, accepted: Sequence[tuple[str, float]]) -> tuple[float, int]:
    """The weight of an offer, and how exactly it was named; the most exact range counts."""
    patterns = (offer, offer.partition("/")[0] + "/*", "*/*")
    for exactness, pattern in zip((2, 1, 0), patterns, strict=True):
        for name, weight in accepted:
            if name == pattern:
                return weight, exactness
    return 0.0, 0


def negotiate(request: web.Request, *offers: str) -> str:
    """The offer that the client likes best; the first of equals, an exactly named one before them.

    Raises HttpError 406.
    """
    header = ",".join(request.headers.getall("Accept", [])).strip()
    if not header:
        return offers[0]
    accepted = _accepted(header)
    best = max(offers, key=lambda offer: _weight(offer, accepted))
    if _weight(best, accepted)[0] <= 0:
        raise HttpError(406, f"Accept allows none of: {', '.join(offers)}")
    return best


def study_asked(request: web.Request) -> str | None:
    """The query's studyInstanceUid; None when there is none. Raises HttpError 400."""
    given = set(request.query.getall("studyInstanceUid", []))
    if len(given) > 1:
        raise HttpError(400, "studyInstanceUid is given twice, with two values")
    study = given.pop().strip() if given else None
    if study == "":
        raise HttpError(400, "studyInstanceUid is empty")
    return study


def _tags(request: web.Request, name: str) -> list[str]:
    return re.findall(r'\*|(?:W/)?"[^"]*"', ",".join(request.headers.getall(name, [])))


def unchanged(request: web.Request, etag: str) -> bool:
    """Is 304 the answer? Raises HttpError 412 when If-Match names another version."""
    wanted = _tags(request, "If-Match")
    if wanted and "*" not in wanted and etag not in wanted:
        raise HttpError(412, "If-Match names another version of this envelope", {"ETag": etag})
    held = _tags(request, "If-None-Match")
    return "*" in held or etag in [tag.removeprefix("W/") for tag in held]


def byte_range(request: web.Request, etag: str, size: int) -> tuple[int, int] | None:
    """(first byte, length) of a single range; None = everything. Raises HttpError 416."""
    if request.method != "GET" or request.headers.get("If-Range", etag) != etag:
        return None
    header = request.headers.get("Range", "").strip().lower()
    parts = re.fullmatch(r"bytes\s*=\s*([0-9]{0,19})\s*-\s*([0-9]{0,19})", header)
    if parts is None or not any(parts.groups()):
        return None
    first, last = parts.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None  # not a range at all: ignored (RFC 9110 §14.1.1)
    if start >= size or (not first and int(last) == 0):
        told = f"Range is outside the {size} bytes of this envelope"
        raise HttpError(416, told, {"Content-Range": f"bytes */{size}"})
    return start, stop - start


# -- credentials ---------------------------------------------------------------------------------


class Guard:
    """Asks for one header, e.g. ("Authorization", "Bearer …"); None lets everyone in who names one
    of `hosts` in Host (None: any).

    A browser can be led to a name that resolves to this machine (DNS rebinding): it then asks here
    on behalf of a stranger's page, but it does name the stranger's host.
    """

    def __init__(
        self, header: tuple[str, str] | None, hosts: Collection[str] | None = None
    ) -> None:
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._name, self._value = header or ("", "")
        self._scheme = self._value.partition(" ")[0] if self._is_authorization else "ApiKey"

    @property
    def _is_authorization(self) -> bool:
        return self._name.lower() == "authorization"

    def check(self, request: web.Request) -> None:
        """Compares in constant time. Raises HttpError 401, 421."""
        if not self._name:
            self._check_host(request.headers.get("Host", ""))
            return
        given = request.headers.getall(self._name, [])
        if len(given) != 1 or not hmac.compare_digest(self._key(given[0]), self._key(self._value)):
            told = f"credentials are missing or wrong: send the {self._name} header"
            challenge = f'{self._scheme} realm="fastjmix"'
            raise HttpError(401, told, {"WWW-Authenticate": challenge})

    def _check_host(self, given: str) -> None:
        """RFC 9110 §7.4: a request for another authority is misdirected. None at all is HTTP/1.0's,
        and no browser's."""
        host = re.sub(r":\d*$", "", given.strip()).rstrip(".").lower()
        if self._hosts is None or not host or is_loopback(host) or host in self._hosts:
            return
        told = "this host is not served here: see allowed_hosts, or configure credentials"
        raise HttpError(421, told)

    def _key(self, value: str) -> bytes:
        """The scheme's name is not case-sensitive (RFC 9110 §11.1); the rest is."""
        if self._is_authorization:
            scheme, _, rest = value.partition(" ")
            value = f"{scheme.lower()} {rest.strip()}"
        return value.encode("utf-8", "surrogateescape")


def is_loopback(host: str) -> bool:
    """Does this bind address stay within the machine? Names other than localhost do not count."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


# -- bodies --------------------------------------------------------------------------------------


def create_private(path: Path) -> BinaryIO:
    """A new file for patients' data: mode 0600. Raises OSError (also when it exists)."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "w+b")


def require_zip(request: web.Request) -> None:
    """Raises HttpError 415 unless the body is a ZIP by one of its names, as it is."""
    coding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise HttpError(415, f"Content-Encoding {coding[:40]} is not accepted: send the ZIP as is")
    if "Content-Type" not in request.headers:
        raise HttpError(415, f"Content-Type is missing: send {ZIP}")
    given = {
        value.partition(";")[0].strip().lower() for value in request.headers.getall("Content-Type")
    }
    if not given <= ZIP_NAMES:
        told = min(given - ZIP_NAMES)[:SHOWN_TYPE]
        raise HttpError(415, f"Content-Type must be {ZIP}, not {told}")


class Received(NamedTuple):
    """A body that was written to a file: its size in bytes, its CRC-32."""

    size: int
    crc32: int


async def receive(
    request: web.Request, file: BinaryIO, max_bytes: int, take: Callable[[int], bool] | None = None
) -> Received:
    """Writes the request's body to `file`. `take` is asked as it grows: may so many bytes follow?

    Raises HttpError 400 (cut short), 408 (too slow), 413 (over `max_bytes`), 507 (`take`), OSError
    (disk).
    """
    too_large = HttpError(413, f"the body is larger than {max_bytes} bytes, the limit here")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    body, total = BodyFile(file), 0
    try:
        async for piece in _pieces_of(request):
            total += len(piece)
            if total > max_bytes:
                raise too_large
            if take is not None and not take(len(piece)):
                raise HttpError(507, "the storage is nearly full: nothing was kept")
            await body.put(piece)
        await body.flush()
    finally:
        await body.close()
    if not total:
        raise HttpError(400, "the body is empty")
    return Received(body.size, body.crc32)


async def _pieces_of(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, in time."""
    clock = asyncio.get_running_loop().time
    started = clock()
    total = 0
    while piece := await _next_piece(request):
        total += len(piece)
        elapsed = clock() - started
        if elapsed > BODY_IDLE_SECS and total < elapsed * BODY_RATE_MIN:
            raise HttpError(408, f"the body came slower than {BODY_RATE_MIN} bytes per second")
        yield piece


async def _next_piece(request: web.Request) -> bytes:
    try:
        with with_peer():
            async with asyncio.timeout(BODY_IDLE_SECS):
                return await request.content.readany()
    except TimeoutError:
        told = f"nothing of the body came for {BODY_IDLE_SECS:.0f} s"
        raise HttpError(408, told) from None
    except (web.RequestPayloadError, ConnectionError) as problem:
        if request.transport is None:
            raise ConnectionResetError("the client went away while it sent a body") from problem
        raise HttpError(400, "the body ended early or is not well-formed") from problem


@contextlib.contextmanager
def with_peer() -> Iterator[None]:
    """Turns an OSError of the connection into a ConnectionError. It is put around code that
    touches the connection and nothing else: an OSError there is the client's or the network's
    (no route, a TLS record that is none)."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise
    except OSError as problem:
        raise ConnectionAbortedError(problem.strerror or str(problem)) from problem


async def send_archive(
    request: web.Request,
    file: BinaryIO,
    envelope_id: str,
    more: Mapping[str, str] = MappingProxyType({}),
) -> web.StreamResponse:
    """Answers GET or HEAD with an archive that is open; whole, a range of it, 304, 412 or 416.

    `more` are further headers.
    """
    size = os.fstat(file.fileno()).st_size
    etag = f'"{envelope_id}-{size:x}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{envelope_id}.zip"',
        **more,
    }
    if unchanged(request, etag):
        return web.Response(status=304, headers=headers)
    part = byte_range(request, etag, size)
    start, length = part or (0, size)
    if part:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{size}"
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_type = ZIP
    response.content_length = length
    with with_peer():
        await response.prepare(request)
    if request.method != "HEAD":
        await _send(request, response, file, start, length)
    with with_peer():
        await response.write_eof()
    return response


async def _send(
    request: web.Request, response: web.StreamResponse, file: BinaryIO, start: int, length: int
) -> None:
    descriptor = file.fileno()
    while length:
        piece = await asyncio.to_thread(os.pread, descriptor, min(length, PIECE_BYTES), start)
        await write_in_time(request, response, piece)
        start += len(piece)
        length -= len(piece)


async def write_in_time(request: web.Request, response: web.StreamResponse, piece: bytes) -> None:
    """Sends the next piece; an empty one says that there is no more, though more was announced.

    Raises TimeoutError, ConnectionError.
    """
    try:
        if not piece:
            raise ConnectionAbortedError("the rest of the answer is gone")
        with with_peer():
            async with asyncio.timeout(WRITE_STALL_SECS):
                await response.write(piece)
    except (TimeoutError, ConnectionAbortedError):
        if request.transport is not None:
            request.transport.abort()  # a short answer must not look like a whole one
        raise


# -- the application around the routes -----------------------------------------------------------


class Runner(web.AppRunner):
    """An AppRunner whose connections come through a door."""

    def __init__(self, app: web.Application, **options: Any) -> None:
        super().__init__(app, handle_signals=False, access_log_class=AccessLog, **options)
        self._options = {"access_log_class": AccessLog, **options}
        del self._options["shutdown_timeout"]  # the runner's own
        self.door = Door(
            most=MAX_CONNECTIONS + SPARE_CONNECTIONS,
            most_each=MAX_CONNECTIONS_EACH,
            stall_secs=WRITE_STALL_SECS,
        )

    async def listen(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> str:
        """Serves a bound socket, which is closed in the end; where it is reached: a URL."""
        site = DoorSite(self, self.door, self._options, listening, tls)
        await site.start()
        return site.name


RUNNER: Final = web.AppKey("runner", Runner)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every failure becomes {"error": …}; what is nobody's fault but ours is logged."""
    try:
        return await handler(request)
    except HttpError as refusal:
        return json_answer({"error": refusal.message}, refusal.status, refusal.headers)
    except EnvelopeError as refusal:
        if isinstance(refusal, Unforeseen):
            log.get().debug("envelope_unforeseen", exc_info=refusal)
        hint = {"hint": refusal.hint} if refusal.hint else {}
        return json_answer({"error": refusal.message, **hint}, 400)
    except web.HTTPException as refusal:
        kept = {name: refusal.headers[name] for name in ("Allow",) if name in refusal.headers}
        return json_answer({"error": refusal.reason}, refusal.status, kept)
    except (ConnectionError, TimeoutError) as problem:
        request[LOST] = True
        log.get().info(
            "http_connection_lost",
            peer=request.remote,
            method=request.method,
            path=request.rel_url.path[:SHOWN_PATH],
            problem=str(problem),
        )
        raise
    except OSError as problem:
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return json_answer({"error": "the storage is full: nothing was kept"}, 507)
        return _our_fault(problem)
    except Exception as problem:
        return _our_fault(problem)


def _our_fault(problem: Exception) -> web.Response:
    log.get().error("http_handler_failed", exc_info=problem)
    return json_answer({"error": "internal error: see the log of fastjmix"}, 500)


@web.middleware
async def _bound_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An answer that is held in memory is not held for ever. Archives see to it themselves."""
    answer = await handler(request)
    if isinstance(answer, web.Response):
        size = len(answer.body) if isinstance(answer.body, bytes) else 0
        try:
            with with_peer():
                async with asyncio.timeout(WRITE_STALL_SECS + size / ANSWER_RATE_MIN):
                    await answer.prepare(request)
                    await answer.write_eof()
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise
    return answer


@web.middleware
async def _bound_connections(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.app[RUNNER].door.count > MAX_CONNECTIONS:
        told = f"more than {MAX_CONNECTIONS} connections: try again later"
        answer = json_answer({"error": told}, 503, {"Retry-After": "5"})
        answer.force_close()
        return answer
    return await handler(request)


@web.middleware
async def _one_reading(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What another server may read otherwise is refused, and the connection ends.

    aiohttp's compiled parser does that; the one in Python, which is used without it, does not.
    """
    codings = request.headers.getall("Transfer-Encoding", ["chunked"])
    known = request.version in (HttpVersion10, HttpVersion11)
    if not known or [coding.lower() for coding in codings] != ["chunked"]:
        told = "this is no HTTP/1.1: send its version, and Transfer-Encoding chunked or none"
        answer = json_answer({"error": told}, 400)
        answer.force_close()
        return answer
    return await handler(request)


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


class AccessLog(AbstractAccessLogger):
    """One line a request. Query values (study UIDs) are shown at debug only.

    A client that went away has its line already, and got no status.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Called by aiohttp when an answer has been sent; `time` is in seconds."""
        if LOST in request:
            return
        lines = log.get()
        lines.info(
            "http_request",
            peer=request.remote,
            method=request.method,
            path=request.rel_url.path[:SHOWN_PATH],
            status=response.status,
            bytes=response.body_length,
            millis=round(time * 1000),
        )
        if request.query_string:
            lines.debug("http_query", query=request.query_string[:SHOWN_PATH])


def make_runner(
    routes: Sequence[web.RouteDef],
    guard: Guard,
    *,
    open_paths: Collection[str] = (),
    shutdown_secs: float,
) -> Runner:
    """An application with these routes and the manners of this module, not yet set up.

    `guard` is asked before every route, unknown ones included, except `open_paths`.
    `shutdown_secs` is how long its cleanup waits for requests in flight.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            guard.check(request)
        return await handler(request)

    app = web.Application(
        middlewares=[_bound_answers, _answer_errors, _bound_connections, _one_reading, check]
    )
    app.add_routes(routes)
    app.on_response_prepare.append(_harden)
    quiet = logging.getLogger("fastjmix.aiohttp")  # its warnings would repeat what peers sent
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    options: dict[str, Any] = {
        "access_log": quiet,
        "logger": quiet,
        "auto_decompress": False,  # so that a small body stays small
        "keepalive_timeout": KEEPALIVE_SECS,
        "lingering_time": LINGER_SECS,
        "max_headers": MAX_HEADERS,
        "max_line_size": MAX_LINE_BYTES,
        "max_field_size": MAX_LINE_BYTES,
        "shutdown_timeout": shutdown_secs,
    }
    runner = Runner(app, **options)
    app[RUNNER] = runner
    return runner


def allow(*methods: str) -> Handler:
    """A handler for OPTIONS: 204 with Allow."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={"Allow": ", ".join(methods)})

    return answer


class Slots:
    """At most `count` at a time; who comes later is told so at once."""

    def __init__(self, count: int) -> None:
        self._left = count

    @contextlib.contextmanager
    def take(self) -> Iterator[None]:
        """Raises HttpError 503."""
        if not self._left:
            raise HttpError(503, "too many uploads at once: try again later", {"Retry-After": "5"})
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1
