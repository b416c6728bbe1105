"""Process api: the HTTP listeners. They serve envelopes, health and metrics; POST passes one on.

Wanted: per listener, under its path_prefix:

    GET|HEAD|OPTIONS  /api/jmix?studyInstanceUid=    the newest envelope of a study, or a JSON list;
                                                     headers say when there are several
                                                     (httpd/parts.py)
    GET|HEAD|OPTIONS  /api/jmix/{id}                 the archive: ranges, entity tag, conditions
    GET|HEAD|OPTIONS  /api/jmix/{id}/manifest        manifest.json, as it is in the archive
    POST              /api/jmix                      validated, put in outbox/, answered when the
                                                     upstream has: 201, 400, 409, 415, 502, 503, 504
and outside it /healthz, /readyz, /metrics.
Guaranteed: reads the disk, and writes only what was POSTed; serves outbox/ and sent/, never what is
being built or was rejected; credentials are asked for on every path but /healthz and /readyz; an id
becomes a file name only when it is a UUID. Errors are {"error": …} (see httpd/server.py).
An encrypted envelope is checked as far as it can be without its key, and passed on; with the key of
its receiver (decryption_key_file) it is checked inside.
Without credentials a request must name localhost, a loopback address, the listener's own or one of
allowed_hosts in Host: no page of a stranger's reads envelopes through a browser on this machine.
Still wrong: after 504 the envelope may still be delivered; the same id is then answered with 409.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, assert_never

import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastjmix import log
from fastjmix._version import __version__
from fastjmix.api.study_index import Catalogue, Entry
from fastjmix.config import Config, HttpListener, Upstream
from fastjmix.config.certificates import server_context
from fastjmix.errors import ConfigError
from fastjmix.failpoints import reach
from fastjmix.httpd import server as manners
from fastjmix.httpd.archive_checks import Checks
from fastjmix.httpd.manifest import send_manifest
from fastjmix.httpd.parts import parts_headers, wanted_of
from fastjmix.httpd.server import HttpError, json_answer
from fastjmix.ipc import metrics
from fastjmix.ipc.channels import Links
from fastjmix.ipc.outcome import DATAGRAM_BYTES_MAX, EnvelopeOutcome, Result
from fastjmix.jmix.read.admission import UUID, EnvelopeSummary
from fastjmix.spool import POST_INODES, Room, Spool, Ticket
from fastjmix.spool.calling_aes import CallingAEs

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

ORIGIN: Final = "api"
"""This process's name in tickets and in Links.outcomes."""

MAX_BODY_BYTES: Final = 64 << 30
"""Largest POST; free space (spool.Room) is the other bound."""

OUTCOME_SLACK_SECS: Final = 60.0
"""Beyond the time of an attempt: the envelope's turn, a connection, and the way there and back."""

PASSING_ON_SECS: Final = 1
"""Retry-After for an id that is being passed on: an upstream that is well needs less."""

AGE_SECS: Final = 5.0
"""How long the oldest envelope is known without another look at outbox/: with 100,000 in it a look
takes a good part of a second."""

SHOWN_DETAIL: Final = 400
"""Characters of an upstream's answer that a 502 repeats."""

READING: Final = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS: Final = ("/healthz", "/readyz")


# -- what the process shares ---------------------------------------------------------------------


class Outcomes:
    """Datagrams of the uploader → the requests that wait for them."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._waiting: dict[str, asyncio.Future[EnvelopeOutcome]] = {}
        receiver.setblocking(False)
        asyncio.get_running_loop().add_reader(receiver, self._read)

    @contextlib.contextmanager
    def expect(self, envelope_id: str) -> Iterator[asyncio.Future[EnvelopeOutcome]]:
        """Returns a future for the outcome of an envelope. Raises HttpError 503 if one waits
        already.

        409 would say that the envelope is here and needs no other copy. Nobody knows that before
        the outcome: the first request may still fail, or the upstream refuse.
        """
        if envelope_id in self._waiting:
            told = f"envelope {envelope_id} is being passed on already: try again later"
            raise HttpError(503, told, {"Retry-After": str(PASSING_ON_SECS)})
        future = asyncio.get_running_loop().create_future()
        self._waiting[envelope_id] = future
        try:
            yield future
        finally:
            del self._waiting[envelope_id]

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                outcome = EnvelopeOutcome.decode(self._receiver.recv(DATAGRAM_BYTES_MAX))
                future = self._waiting.get(outcome.envelope_id)
                if future is not None and not future.done():
                    future.set_result(outcome)

    def close(self) -> None:
        """Stops listening to the socket, which stays open."""
        asyncio.get_running_loop().remove_reader(self._receiver)


class Shared:
    """What all listeners of this process use: the spool, its index, outcomes, links."""

    def __init__(self, config: Config, spool: Spool, links: Links) -> None:
        self.spool = spool
        self.links = links
        self.room = Room.of(config, links.stats)
        self.catalogue = Catalogue(spool)
        self.calling_aes = CallingAEs(spool)
        self.outcomes = Outcomes(links.outcomes[ORIGIN])
        self.uploads = manners.Slots(manners.MAX_UPLOADS)
        self.checks = Checks()
        self.stopping = asyncio.Event()
        self._alarm_secs = config.runtime.queue_alarm_secs
        self._oldest: float | None = None
        self._looked = -math.inf

    def open_archive(self, envelope_id: str) -> BinaryIO:
        """An envelope's archive, open; it stays whole however it is moved. Raises HttpError 404."""
        if UUID.fullmatch(envelope_id):
            try:
                found = self.spool.open_served(envelope_id.lower())
            except OSError as problem:
                raise HttpError(500, f"the envelope cannot be read: {problem.strerror}") from None
            if found is not None:
                return found
        raise HttpError(404, "no envelope with this id is here")

    def reasons_against(self) -> list[str]:
        """Why this node is not ready: empty when it is."""
        found = ["fastjmix is stopping"] if self.stopping.is_set() else []
        totals = self.links.stats.totals()
        if totals["receivers_down"]:
            found.append("a receiver died and is being restarted")
        if totals["packers_down"]:
            found.append("a packer died and is being restarted")
        if totals["intake_stopped"]:
            found.append("the storage has failed twice: nothing is taken until it is well again")
        try:
            if self.room.low():
                few = ": few inodes are left" if self.room.lacking == "inodes" else ""
                found.append(f"the storage is nearly full{few}")
            if not os.access(self.spool.building, os.W_OK | os.X_OK):
                found.append("the storage directory is not writable")
        except OSError as problem:
            found.append(f"the storage directory cannot be used: {problem.strerror}")
        return found

    def queue_age(self) -> float:
        """For how many seconds the oldest envelope has waited for its upstream. Raises OSError."""
        now = time.monotonic()
        if now - self._looked > AGE_SECS:
            self._oldest, self._looked = self.spool.oldest_waiting(), now
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    def warnings(self) -> list[str]:
        """What a person should look at, though the node is ready. Raises OSError."""
        age = self.queue_age()
        if age <= self._alarm_secs:
            return []
        limit = f"queue_alarm_secs = {self._alarm_secs:g}"
        return [f"the oldest envelope has waited for its upstream for {int(age)} s ({limit})"]


class Numbers(Collector):
    """The shared counters in the form that Prometheus reads."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """Every counter and gauge of ipc/metrics.py, what the disk says, and which fastjmix this
        is.
        """
        totals = self._shared.links.stats.totals()
        for name, meaning in metrics.COUNTERS.items():
            yield CounterMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        for name, meaning in metrics.GAUGES.items():
            yield GaugeMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        with contextlib.suppress(OSError):
            found = os.statvfs(self._shared.spool.root)
            free = found.f_bavail * found.f_frsize
            yield GaugeMetricFamily("fastjmix_storage_free_bytes", "Free bytes of storage.", free)
            age, meaning = self._shared.queue_age(), "Age of the oldest envelope in outbox/."
            yield GaugeMetricFamily("fastjmix_outbox_oldest_age_seconds", meaning, age)
        returning, meaning = len(self._shared.calling_aes), "Calling AE titles that come back."
        yield GaugeMetricFamily("fastjmix_calling_aes_returning", meaning, returning)
        build = GaugeMetricFamily("fastjmix_build", "Always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build


# -- the routes of one listener ------------------------------------------------------------------


class Listener:
    """The routes of one HttpListener."""

    def __init__(
        self, settings: HttpListener, shared: Shared, key: RecipientKey | None = None
    ) -> None:
        self._settings = settings
        self._shared = shared
        self._key = key
        self._collection = f"/{settings.path_prefix.strip('/')}/api/jmix".replace("//", "/")

    def routes(self) -> list[web.RouteDef]:
        """All of the above; GET routes answer HEAD too."""
        one = f"{self._collection}/{{id}}"
        return [
            web.get(self._collection, self._query),
            web.post(self._collection, self._post),
            web.options(self._collection, manners.allow(*READING, "POST")),
            web.get(one, self._archive),
            web.options(one, manners.allow(*READING)),
            web.get(f"{one}/manifest", self._manifest),
            web.options(f"{one}/manifest", manners.allow(*READING)),
            web.get("/healthz", self._live),
            web.get("/readyz", self._ready),
            web.get("/metrics", self._metrics),
        ]

    async def _query(self, request: web.Request) -> web.StreamResponse:
        study = manners.study_asked(request)
        if study is None:
            raise HttpError(400, "studyInstanceUid is missing: add ?studyInstanceUid=…")
        wanted = wanted_of(request)
        found = await self._shared.catalogue.of_study(study)
        if found and wanted == manners.JSON:
            return json_answer({"jmixEnvelopes": [_shown(entry, study) for entry in found]})
        more = parts_headers(self._collection, study, len(found))
        for entry in found:
            with contextlib.suppress(FileNotFoundError), self._open_listed(entry) as file:
                return await manners.send_archive(request, file, entry.id, more)
        raise HttpError(404, "no envelope of this study is here")

    def _open_listed(self, entry: Entry) -> BinaryIO:
        """Raises FileNotFoundError for one that retention took since it was listed."""
        try:
            return self._shared.open_archive(entry.id)
        except HttpError as gone:
            raise FileNotFoundError from gone

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        envelope_id = request.match_info["id"]
        with self._shared.open_archive(envelope_id) as file:
            manners.negotiate(request, manners.ZIP)
            return await manners.send_archive(request, file, envelope_id.lower())

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        with self._shared.open_archive(request.match_info["id"]) as file:
            manners.negotiate(request, manners.JSON)
            return await send_manifest(request, file)

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return json_answer({"status": "live"})

    async def _ready(self, _: web.Request) -> web.StreamResponse:
        reasons = await asyncio.to_thread(self._shared.reasons_against)
        if reasons:
            return json_answer({"status": "not ready", "reasons": reasons}, 503)
        warnings = await asyncio.to_thread(self._shared.warnings)
        return json_answer({"status": "ready"} | ({"warnings": warnings} if warnings else {}))

    async def _metrics(self, _: web.Request) -> web.StreamResponse:
        text = await asyncio.to_thread(generate_latest, Numbers(self._shared))
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    # -- POST ------------------------------------------------------------------------------------

    async def _post(self, request: web.Request) -> web.StreamResponse:
        upstream = self._settings.upstream
        if upstream is None:
            told = "no upstream is configured here: name a jmix_backend in the pipeline's backends"
            raise HttpError(501, told)
        manners.require_zip(request)
        room = self._shared.room
        if room.exhausted() or not room.fits(request.content_length or 0, POST_INODES):
            raise HttpError(
                507, f"the storage is nearly full ({room.lacking}): nothing is accepted"
            )
        if self._shared.links.stats.total("intake_stopped"):
            raise HttpError(507, "the storage has failed: nothing is accepted")
        with contextlib.ExitStack() as waiting:
            size, future = await self._take_in(request, upstream, waiting)
            try:
                async with asyncio.timeout(upstream.attempt_secs(size) + OUTCOME_SLACK_SECS):
                    outcome = await future
            except TimeoutError:
                told = f"upstream {upstream.name} has not answered; the envelope stays queued"
                raise HttpError(504, told) from None
        return self._answer(outcome, upstream)

    async def _take_in(
        self, request: web.Request, upstream: Upstream, waiting: contextlib.ExitStack
    ) -> tuple[int, asyncio.Future[EnvelopeOutcome]]:
        """Body → building/ → outbox/. Its size, and the outcome's future until `waiting` ends."""
        shared = self._shared
        temporary = shared.spool.new_upload()
        with shared.uploads.take(), contextlib.ExitStack() as cleanup:
            cleanup.callback(temporary.unlink, missing_ok=True)
            file = cleanup.enter_context(manners.create_private(temporary))
            shared.room.spend(0, files=POST_INODES)
            received = await manners.receive(request, file, MAX_BODY_BYTES, shared.room.take)
            summary = await shared.checks.check(file, key=self._key, unopened=self._key is None)
            future = waiting.enter_context(shared.outcomes.expect(summary.id))
            ticket = self._ticket(summary, upstream, received)
            reach("api.received")
            try:
                await asyncio.to_thread(shared.spool.admit, temporary, ticket)
            except FileExistsError:
                told = f"envelope {summary.id} is here already; nothing was changed"
                raise HttpError(409, told) from None
            reach("api.admitted")
        shared.links.ring_outbox()
        log.get().info("envelope_taken_in", envelope=summary.id, bytes=received.size, origin=ORIGIN)
        return received.size, future

    def _ticket(
        self, summary: EnvelopeSummary, upstream: Upstream, received: manners.Received
    ) -> Ticket:
        return Ticket(
            id=summary.id,
            pipeline=self._settings.pipeline,
            upstream=upstream.name,
            ack="uploaded",
            studies=summary.studies,
            calling_ae="",
            instances=summary.instances,
            size_bytes=received.size,
            sealed_at=time.time(),
            origin=ORIGIN,
            crc32=received.crc32,
        )

    def _answer(self, outcome: EnvelopeOutcome, upstream: Upstream) -> web.StreamResponse:
        envelope_id, detail = outcome.envelope_id, outcome.detail[:SHOWN_DETAIL]
        code = f" (HTTP {outcome.status})" if outcome.status else ""
        match outcome.result:
            case Result.DELIVERED:
                where = {"Location": f"{self._collection}/{envelope_id}"}
                return json_answer({"id": envelope_id, "status": "stored"}, 201, where)
            case Result.TIMEOUT:
                raise HttpError(504, f"upstream {upstream.name} timed out: {detail}")
            case Result.REFUSED:
                told = f"upstream {upstream.name} refused the envelope{code}: {detail}"
                raise HttpError(502, told)
            case Result.FAILED:
                told = f"upstream {upstream.name} could not be reached or failed{code}: {detail}"
                raise HttpError(502, told)
            case _:
                assert_never(outcome.result)


def _shown(entry: Entry, study: str) -> dict[str, Any]:
    sealed_at = datetime.fromtimestamp(entry.sealed_at, UTC)
    return {
        "id": entry.id,
        "studyInstanceUid": study,
        "state": entry.state,
        "instances": entry.instances,
        "sizeBytes": entry.size_bytes,
        "sealedAt": sealed_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


# -- the process ---------------------------------------------------------------------------------


def _tls(settings: HttpListener) -> ssl.SSLContext | None:
    """TLS 1.2 or later, when a certificate and its key are configured. Raises ConfigError."""
    if settings.cert_file is None or settings.key_file is None:
        return None
    try:
        return server_context(settings.cert_file, settings.key_file)
    except OSError as problem:  # they were changed since the start; ssl.SSLError is one
        raise ConfigError(
            f"{settings.cert_file}: not a certificate that fits {settings.key_file}: {problem}",
            "Both must be PEM files; the certificate file holds the chain, the server's first.",
        ) from problem


def _key(settings: HttpListener) -> RecipientKey | None:
    """Returns the key for envelopes that are posted encrypted, when one is configured. Raises
    ConfigError.
    """
    if settings.decryption_key_file is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys  # some 60 ms: only for decryption

    return key_files.load(keys.recipient_key, settings.decryption_key_file)


def _guard(settings: HttpListener) -> manners.Guard:
    """Raises ConfigError for a listener that would serve patients' images to everyone."""
    if settings.credentials is not None:
        return manners.Guard(settings.credentials.header())
    if not manners.is_loopback(settings.host) and not settings.allow_unauthenticated:
        raise ConfigError(
            f"endpoint {settings.endpoint}: {settings.host} is reachable from other machines",
            "Give it authentication, bind it to 127.0.0.1, or set allow_unauthenticated = true.",
        )
    return manners.Guard(None, (settings.host, *settings.allowed_hosts))


async def _serve(
    config: Config, spool: Spool, links: Links, sockets: Sequence[socket.socket]
) -> None:
    shared = Shared(config, spool, links)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(links.stop)
        shared.stopping.set()

    loop.add_reader(links.stop, stop)
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # the supervisor drains in order
            loop.add_signal_handler(signal.SIGTERM, shared.stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor's to decide
    runners: list[web.AppRunner] = []
    warming = asyncio.create_task(_warm(shared.catalogue))
    try:
        for settings, listening in zip(config.http, sockets, strict=True):
            runners.append(await _listen(settings, shared, listening, config.runtime.grace_secs))
        await shared.stopping.wait()
        log.get().info("http_draining")
    finally:
        warming.cancel()
        await asyncio.gather(*(runner.cleanup() for runner in runners))
        shared.outcomes.close()  # last: requests in flight may be waiting for one


async def _warm(catalogue: Catalogue) -> None:
    try:
        await catalogue.warm()
    except OSError as problem:
        log.get().error("catalogue_unreadable", problem=problem.strerror)


async def _listen(
    settings: HttpListener, shared: Shared, listening: socket.socket, grace_secs: float
) -> web.AppRunner:
    tls = _tls(settings)
    routes = Listener(settings, shared, _key(settings)).routes()
    runner = manners.make_runner(
        routes, _guard(settings), open_paths=OPEN_PATHS, shutdown_secs=grace_secs
    )
    await runner.setup()
    url = await runner.listen(listening, tls)
    log.get().info("http_listening", endpoint=settings.endpoint, url=url)
    return runner


def run(config: Config, spool: Spool, links: Links, sockets: Sequence[socket.socket]) -> None:
    """The forked child: serves until Links.stop or SIGTERM, then ends what is in flight.

    `sockets` are bound, one for each of `config.http`, in its order. Logging is set up by the
    caller. SIGINT, which a terminal sends to the whole group, is left to the supervisor. Raises
    ConfigError for TLS files that cannot be used.
    """
    spool.take_over(ORIGIN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, spool, links, sockets))
