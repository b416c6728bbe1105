"""Upstreams for tests: real servers on ports of the system's choice, well- and ill-mannered.

Upstream        aiohttp, HTTP/1.1 with keep-alive: answers from a script, remembers what it was sent
Small           the standard library's, reads only Content-Length (a chunked body is lost)
Raw             a TCP server whose every byte a test decides
authority       a private certification authority, and a server's certificate from it
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import http.server
import io
import ipaddress
import json
import re
import socket
import ssl
import struct
import threading
import uuid
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

PATH = "/api/jmix"
BODY_KEPT_MAX = 1 << 20
END_OF_HEAD = b"\r\n\r\n"


@dataclass(slots=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    version: tuple[int, int]
    headers: dict[str, str]
    size: int = 0
    sha256: str = ""
    body: bytes = b""
    peer: object = None


class Ledger:
    """The requests that a server has seen, and a way to wait for more of it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._more = asyncio.Condition()

    @property
    def posts(self) -> list[Seen]:
        return [one for one in self.seen if one.method == "POST"]

    async def note(self, one: Seen) -> None:
        async with self._more:
            self.seen.append(one)
            self._more.notify_all()

    async def wait(self, count: int, method: str = "POST") -> list[Seen]:
        """Until `count` requests of that method have come."""

        def found() -> list[Seen]:
            return [one for one in self.seen if one.method == method]

        async with asyncio.timeout(10), self._more:
            await self._more.wait_for(lambda: len(found()) >= count)
        return found()


Script = Callable[[web.BaseRequest, Seen], Awaitable[web.StreamResponse] | web.StreamResponse]


def answer(status: int, document: Any = None, **headers: str) -> web.Response:
    text = b"" if document is None else json.dumps(document).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, body=text, headers=named)


def taken(_: web.BaseRequest, __: Seen) -> web.Response:
    """The usual answer: 201, with an id of its own."""
    return answer(201, {"id": str(uuid.uuid4()), "status": "stored"})


def script(*steps: web.Response | int) -> Callable[[web.BaseRequest, Seen], web.Response]:
    """Answers in turn; after the last, 201."""
    left = iter(steps)

    def next_answer(request: web.BaseRequest, seen: Seen) -> web.Response:
        step = next(left, None)
        if step is None:
            return taken(request, seen)
        if isinstance(step, int):
            return answer(step, {"error": f"status {step}"} if step >= 300 else None)
        return step

    return next_answer


class Upstream(Ledger):
    """`script` gives the answer to a POST, `manifest` to a GET."""

    def __init__(self, script: Script = taken, manifest: Script | None = None) -> None:
        super().__init__()
        self.script = script
        self.manifest = manifest or (lambda _, __: answer(404))
        self.url = ""
        self._server: web.Server | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._server.connections) if self._server is not None else 0

    @contextlib.asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Upstream]:
        self._server = server = web.Server(self._handle)
        runner = web.ServerRunner(server, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{PATH}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        one = Seen(
            request.method,
            request.path,
            (request.version.major, request.version.minor),
            {name.lower(): value for name, value in request.headers.items()},
            peer=request.transport and request.transport.get_extra_info("peername"),
        )
        if request.method == "POST":
            await self._take(request, one)
        await self.note(one)
        script = self.script if request.method == "POST" else self.manifest
        made = script(request, one)
        return made if isinstance(made, web.StreamResponse) else await made

    async def _take(self, request: web.BaseRequest, one: Seen) -> None:
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
            one.size += len(chunk)
            if one.size <= BODY_KEPT_MAX:
                one.body += chunk
        one.sha256 = digest.hexdigest()


Reply = tuple[int, bytes]
Manner = Callable[[bytes, str | None], Reply]
"""From the body that was read and the id in it, if there is one, to a status and a body."""


def names_it(_: bytes, envelope_id: str | None) -> Reply:
    """Answers as a JMIX server that keeps our ids; for a body without one it makes an id up."""
    return 201, json.dumps({"id": envelope_id or str(uuid.uuid4()), "status": "stored"}).encode()


def names_its_own(_: bytes, __: str | None) -> Reply:
    return 201, json.dumps({"id": str(uuid.uuid4()), "status": "stored"}).encode()


def says_created(_: bytes, __: str | None) -> Reply:
    return 201, b""


def says_ok(_: bytes, __: str | None) -> Reply:
    return 200, b"{}"


def shows_a_page(_: bytes, __: str | None) -> Reply:
    return 200, b"<!doctype html><title>Sign in</title>"


def refuses_the_empty(status: int) -> Manner:
    """Answers that status for a body without an id in it, else as names_it."""

    def manner(body: bytes, envelope_id: str | None) -> Reply:
        if envelope_id is None:
            return status, b'{"error": "empty"}'
        return names_it(body, envelope_id)

    return manner


def names_the_last(_: bytes, envelope_id: str | None, last: list[str] = []) -> Reply:  # noqa: B006
    """Answers a body that it has not read with the id of the one before."""
    last[:] = [envelope_id] if envelope_id else last
    return names_it(b"", last[0] if last else None)


class Small:
    """As small servers are: the standard library's, and only Content-Length is read.

    A chunked body is stored as no bytes at all, and answered all the same; `chunked=True` reads
    both. `manner` may be exchanged at any time. A manifest is given of what was read whole.
    """

    def __init__(
        self, manner: Manner = names_it, *, version: str = "HTTP/1.1", chunked: bool = False
    ) -> None:
        self.manner = manner
        self.version = version
        self.chunked = chunked
        self.seen: list[Seen] = []
        self.manifests: dict[str, bytes] = {}
        self.url = ""

    @property
    def sizes(self) -> list[int]:
        return [one.size for one in self.seen]

    def codings(self) -> list[str]:
        """Returns in which coding each body came: "chunked" or "length"."""
        return ["length" if "content-length" in one.headers else "chunked" for one in self.seen]

    @contextlib.contextmanager
    def open(self) -> Iterator[str]:
        """Gives the URL."""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = outer.version
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                self.reply(*outer.take(self))

            def do_GET(self) -> None:
                found = outer.manifests.get(self.path.split("/")[-2])
                self.reply(*((404, b"{}") if found is None else (200, found)))

            def reply(self, status: int, text: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                """Ignores a peer that breaks off."""

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}{PATH}"
        try:
            yield self.url
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def take(self, request: http.server.BaseHTTPRequestHandler) -> Reply:
        if self.chunked and "chunked" in request.headers.get("Transfer-Encoding", ""):
            body = _dechunked(request.rfile)
        else:
            body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in request.headers.items()}
        version = (1, int(self.version[-1]))
        digest = hashlib.sha256(body).hexdigest()
        self.seen.append(Seen("POST", request.path, version, headers, len(body), digest, body))
        envelope_id = self._keep(body)
        return self.manner(body, envelope_id)

    def _keep(self, body: bytes) -> str | None:
        with contextlib.suppress(zipfile.BadZipFile, KeyError, ValueError):
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                manifest = archive.read("manifest.json")
            envelope_id = str(json.loads(manifest)["id"])
            self.manifests[envelope_id] = manifest
            return envelope_id
        return None


def _dechunked(file: Any) -> bytes:
    body = bytearray()
    while size := int(file.readline(), 16):
        body += file.read(size)
        file.readline()
    file.readline()
    return bytes(body)


@dataclass(slots=True)
class Wire:
    """One accepted connection of a Raw server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)

    async def head(self) -> bytes:
        """Reads the request line and the headers."""
        found = await self.reader.readuntil(END_OF_HEAD)
        self.received += found
        return found

    async def take(self, size: int) -> bytes:
        found = await self.reader.readexactly(size)
        self.received += found
        return found

    async def chunked(self) -> bytes:
        """Reads a chunked body to its end; returns what it stood for."""
        body = bytearray()
        while True:
            line = await self.reader.readuntil(b"\r\n")
            self.received += line
            size = int(line, 16)
            data = await self.take(size + 2)
            assert data.endswith(b"\r\n")
            body += data[:-2]
            if not size:
                return bytes(body)

    async def body(self, head: bytes) -> bytes:
        """Reads the body that `head` announces, in either coding."""
        length = re.search(rb"Content-Length: (\d+)\r\n", head)
        return await self.take(int(length[1])) if length else await self.chunked()

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        """RST instead of FIN."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Raw:
    """Runs `script` for every connection; its errors are the peer's business, not the test's."""

    def __init__(self, script: Callable[[Wire], Awaitable[None]]) -> None:
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Wire] = []
        self.url = ""

    @contextlib.asynccontextmanager
    async def open(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Raw]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls, limit=1 << 16)
        port = server.sockets[0].getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}{PATH}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for wire in self.connections:
                wire.writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer)
        self.connections.append(wire)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
            await self._script(wire)
        writer.close()


async def says_nothing_for_ever(wire: Wire) -> None:
    await wire.body(await wire.head())
    await asyncio.sleep(60)


def http_head(status: str, version: str = "1.1", **headers: object) -> bytes:
    lines = [f"HTTP/{version} {status}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def authority(
    directory: Path, host: str = "127.0.0.1", *, days: float = 1, self_signed: bool = False
) -> tuple[Path, ssl.SSLContext]:
    """A new private CA: its certificate's file, and a server's context with one from it.

    The server's is valid until `days` from now, which may have been. `self_signed`: by itself.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def certify(
        subject: str, key: Any, issuer: str, signer: Any, *, ca: bool, days: float = 1
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now + days * day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        if ca:
            usage = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                    **usage,
                ),
                critical=True,
            )
        else:
            address = x509.IPAddress(ipaddress.ip_address(host))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        return builder.sign(signer, hashes.SHA256())

    top_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    top = certify("test authority", top_key, "test authority", top_key, ca=True)
    issuer, signer = ("test upstream", key) if self_signed else ("test authority", top_key)
    leaf = certify("test upstream", key, issuer, signer, ca=False, days=days)
    ca_file, pair = directory / "ca.pem", directory / "upstream.pem"
    ca_file.write_bytes(top.public_bytes(serialization.Encoding.PEM))
    pair.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + leaf.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    return ca_file, context
