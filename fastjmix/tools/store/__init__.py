"""Process `fastjmix store`: a small JMIX server, for demonstrations, tests and small sites.

Wanted: the published API over a directory that anyone can read with `ls` and `unzip`
(directory.py):

    GET|HEAD  /api/jmix?studyInstanceUid=   the newest envelope of a study; all of them in one ZIP
                                            with &whole=1; or a JSON list: of a study or of all, in
                                            pages (paging.py)
    POST      /api/jmix                     stored: 201, 400, 409, 413, 415, 503, 507
    GET|HEAD  /api/jmix/{id}                the archive: ranges, entity tag, conditions
    DELETE    /api/jmix/{id}                204; only where callers present a token
    GET|HEAD  /api/jmix/{id}/manifest       manifest.json, as it is in the archive
    GET|HEAD  /                             the list as a page for a person (page.py)
    GET|HEAD  /healthz                      alive; asks for no token

Guaranteed: 201 means durable (fsync, link, fsync of the directory) and valid
(jmix/read/admission.py), each member's CRC-32 included; 409 means that the id is stored so, and can
be fetched whole; 204 means that the envelope is deleted for good; an id that is still arriving is
answered with 503; a body goes to a file, never to memory.
Still wrong: one process and one directory; no retention, no TLS of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from aiohttp import web

from fastjmix import log
from fastjmix.errors import ConfigError, PlatformError
from fastjmix.httpd import limits as http_limits
from fastjmix.httpd import receiving
from fastjmix.httpd.credentials import AccessCheck, is_loopback
from fastjmix.httpd.envelopes import archive_of, manifest_of
from fastjmix.httpd.negotiation import negotiate
from fastjmix.httpd.parts import Part, require_few, send_parts
from fastjmix.httpd.responses import JSON, ZIP, HttpError, allow, json_response
from fastjmix.httpd.sending import send_archive
from fastjmix.httpd.server import Runner, Service, make_runner
from fastjmix.httpd.slots import Slots
from fastjmix.httpd.study_query import list_headers, study_of, wanted_type, whole_wanted
from fastjmix.jmix.limits import Limits
from fastjmix.tools.store.directory import StoreDirectory
from fastjmix.tools.store.index import Held
from fastjmix.tools.store.page import HTML, list_page
from fastjmix.tools.store.paging import Asked, asked, next_url, page_of

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

MAX_BODY_BYTES: Final = 64 << 30
"""Default limit of one POST: larger than any envelope a gateway seals by default."""
SHUTDOWN_SECS: Final = 10.0
"""Seconds that requests in flight may take after SIGTERM."""
COLLECTION: Final = "/api/jmix"
READING: Final = ("GET", "HEAD", "OPTIONS")
NO_STUDY: Final = "studyInstanceUid is missing: add ?studyInstanceUid=…"
OPEN_PATHS: Final = ("/healthz",)


class _Store:
    """The routes over a directory."""

    def __init__(self, directory: StoreDirectory, max_body_bytes: int, *, may_delete: bool) -> None:
        self._directory = directory
        self._max_body_bytes = max_body_bytes
        self._may_delete = may_delete
        self._uploads = Slots(http_limits.MAX_UPLOADS, "uploads")
        self._joined = Slots(http_limits.JOINED_AT_ONCE, "answers of whole studies")

    def routes(self) -> list[web.RouteDef]:
        """Returns the routes of the module's table; GET routes answer HEAD too."""
        one = f"{COLLECTION}/{{id}}"
        return [
            web.get(COLLECTION, self._query),
            web.post(COLLECTION, self._store),
            web.options(COLLECTION, allow(*READING, "POST")),
            web.get(one, self._archive),
            web.delete(one, self._delete),
            web.options(one, allow(*READING, *(["DELETE"] if self._may_delete else []))),
            web.get(f"{one}/manifest", self._manifest),
            web.options(f"{one}/manifest", allow(*READING)),
            web.get("/", self._page),
            web.get("/healthz", self._live),
        ]

    async def _query(self, request: web.Request) -> web.StreamResponse:
        study = study_of(request)
        page = asked(request)
        if whole_wanted(request):
            return await self._whole(request, study)
        offers = (JSON, ZIP) if page.named else (ZIP, JSON)
        wanted = wanted_type(request, offers)
        if study is None and wanted != JSON:
            raise HttpError(400, NO_STUDY)
        if wanted == JSON:
            return self._list(study, page)
        found = self._of_study(study)
        newest = page_of(found, Asked(1, None, named=False)).entries[0].id
        more = list_headers(COLLECTION, study or "", len(found))
        with self._directory.open_archive(newest) as file:
            return await send_archive(request, file, newest, more)

    async def _whole(self, request: web.Request, study: str | None) -> web.StreamResponse:
        """Responds with all envelopes of a study in one ZIP, the oldest first. Raises HttpError."""
        if study is None:
            raise HttpError(400, NO_STUDY)
        found = sorted(self._of_study(study), key=lambda held: (held.stored_ns, held.id))
        more = list_headers(COLLECTION, study, len(found))
        require_few(len(found), more)
        with self._joined.take(), contextlib.ExitStack() as files:
            parts = [
                Part(held.id, files.enter_context(self._directory.open_archive(held.id)))
                for held in found
            ]
            return await send_parts(request, parts, more)

    def _of_study(self, study: str | None) -> list[Held]:
        """Raises HttpError 404 when there is none of this study at all."""
        found = self._directory.index.of_study(study)
        if study is not None and not found:
            raise HttpError(404, "no envelope of this study is stored here")
        return found

    def _list(self, study: str | None, wanted: Asked) -> web.Response:
        entries, cursor = page_of(self._of_study(study), wanted)
        answer: dict[str, Any] = {"jmixEnvelopes": [held.entry(study) for held in entries]}
        headers = {}
        if cursor is not None:
            answer["nextCursor"] = cursor
            url = next_url(COLLECTION, cursor, wanted, study)
            headers["Link"] = f'<{url}>; rel="next"'  # RFC 8288
        return json_response(answer, headers=headers)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        study, wanted = study_of(request), asked(request)
        negotiate(request, HTML)
        entries, cursor = page_of(self._directory.index.of_study(study), wanted)
        later = None if cursor is None else next_url("/", cursor, wanted, study)
        return list_page(COLLECTION, entries, later)

    async def _live(self, _: web.Request) -> web.StreamResponse:
        return json_response({"status": "live"})

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        return await archive_of(request, self._open(request))

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        return await manifest_of(request, self._open(request))

    def _open(self, request: web.Request) -> BinaryIO:
        """Raises HttpError 404, 503."""
        return self._directory.open_archive(request.match_info["id"])

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        if not self._may_delete:
            what = "nothing is deleted here without a token: start the store with one"
            raise HttpError(403, what)
        envelope_id = request.match_info["id"].lower()
        await self._directory.delete(envelope_id)
        log.get().info("envelope_deleted", envelope=envelope_id, peer=request.remote)
        return web.Response(status=204)

    async def _store(self, request: web.Request) -> web.StreamResponse:
        receiving.require_zip(request)
        temporary = self._directory.new_upload()
        with self._uploads.take(), contextlib.ExitStack() as cleanup:
            cleanup.callback(temporary.unlink, missing_ok=True)
            file = cleanup.enter_context(receiving.create_private(temporary))
            received = await receiving.receive(request, file, self._max_body_bytes)
            summary = await self._directory.keep(file, temporary)
        log.get().info("envelope_stored", envelope=summary.id, bytes=received.size)
        where = {"Location": f"{COLLECTION}/{summary.id}"}
        return json_response({"id": summary.id, "status": "stored"}, 201, where)


async def start(
    host: str,
    port: int,
    directory: Path,
    token: str | None = None,
    *,
    verify_hashes: bool = False,
    key: RecipientKey | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    allow_unauthenticated: bool = False,
    limits: Limits | None = None,
) -> tuple[Runner, int]:
    """Serves `directory`; returns the runner (its cleanup() stops it) and the port (0 = any free).

    `key` decrypts what is encrypted, to see that it is an envelope; without it such are refused.
    Callers may delete only where they present a `token`.
    Raises SpoolError (the directory), PlatformError (the port), and ConfigError for an address
    beyond this machine without a token.
    """
    if token is None and not allow_unauthenticated and not is_loopback(host):
        risk = f"the store would give patients' images to everyone who can reach {host}"
        raise ConfigError(risk, "Give it a token, bind it to 127.0.0.1, or allow it explicitly.")
    stored = StoreDirectory(
        directory, limits=limits or Limits(), verify_hashes=verify_hashes, key=key
    )
    await asyncio.to_thread(stored.open)
    access = AccessCheck(None if token is None else ("Authorization", f"Bearer {token}"))
    routes = _Store(stored, max_body_bytes, may_delete=token is not None).routes()
    runner = make_runner(Service(routes, access, OPEN_PATHS), shutdown_secs=SHUTDOWN_SECS)

    async def close(_: web.Application) -> None:
        stored.close()

    runner.app.on_cleanup.append(close)
    return runner, await _set_up(runner, host, port)


async def _set_up(runner: Runner, host: str, port: int) -> int:
    """Makes the runner serve this address; returns the port. Cleans it up where that fails."""
    try:
        await runner.setup()
        listener = _listening(host, port)
        bound: int = listener.getsockname()[1]
        await runner.listen(listener)
    except BaseException:
        await runner.cleanup()
        raise
    return bound


def _listening(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises PlatformError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as problem:
        what = f"{host}:{port}: {problem.strerror or problem}"
        raise PlatformError(what, "Is another program listening there?") from None


async def _serve(ready: Callable[[str], None] | None, host: str, port: int, **options: Any) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    runner, bound = await start(host, port, **options)
    url = f"http://{f'[{host}]' if ':' in host else host}:{bound}{COLLECTION}"
    log.get().info("store_listening", url=url, directory=str(options["directory"]))
    if ready is not None:
        ready(url)
    try:
        await stopped.wait()
    finally:
        await runner.cleanup()
        log.get().info("store_stopped")


def run(
    host: str,
    port: int,
    directory: Path,
    token: str | None = None,
    *,
    ready: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Serves until SIGTERM or SIGINT. `ready` is called once with the URL; options as `start`'s."""
    asyncio.run(_serve(ready, host, port, directory=directory, token=token, **options))
