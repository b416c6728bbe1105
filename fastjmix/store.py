"""process `fastjmix store`: a small JMIX server, for demonstrations, tests and small sites.

Wanted: the published API (GET, HEAD, POST /api/jmix…) over a directory that anyone can read with
`ls` and `unzip`.
Guaranteed: 201 means durable (fsync, rename, fsync of the directory) and valid (jmix/check.py); an
id is never overwritten (409); a body goes to a file, never to memory; the index is made again from
the files at each start, and a file that is no valid envelope is set aside, not deleted.
Still wrong: one process and one directory; no deletion, no retention, no TLS of its own. Encrypted
envelopes are decrypted once more at each start (and written nowhere); started without their key, it
takes them for damaged.

States on disk:

    <dir>/incoming/<uuid>.zip    being received; deleted at start
    <dir>/<id>.zip               stored
    <dir>/<id>.damaged           was <id>.zip, and is no valid envelope: kept for a person
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from aiohttp import web

from fastjmix import log
from fastjmix import web as manners
from fastjmix.errors import ConfigError, EnvelopeError, SpoolError
from fastjmix.jmix.check import EnvelopeSummary, Limits, check_envelope, read_manifest
from fastjmix.spool import sync_directory
from fastjmix.web import HttpError, json_answer

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

MAX_BODY_BYTES: Final = 64 << 30
"""Default limit of one POST: larger than any envelope a gateway seals by default."""
SHUTDOWN_SECS: Final = 10.0
"""How long requests in flight may take after SIGTERM."""
COLLECTION: Final = "/api/jmix"


@dataclass(frozen=True, slots=True)
class Held:
    """One stored envelope, as the index knows it. `stored_ns`: Unix time of arrival, in ns."""

    id: str
    studies: tuple[str, ...]
    instances: int
    size_bytes: int
    stored_ns: int

    def shown(self, study: str | None = None) -> Mapping[str, Any]:
        """The entry in a JSON list."""
        return {
            "id": self.id,
            "studyInstanceUid": study or (self.studies[0] if self.studies else None),
            "studyInstanceUids": self.studies,
            "state": "stored",
            "instances": self.instances,
            "sizeBytes": self.size_bytes,
        }


class Shelf:
    """The directory and its index. One process at a time: it holds a lock."""

    def __init__(
        self,
        directory: Path,
        *,
        limits: Limits,
        verify_hashes: bool,
        key: RecipientKey | None = None,
    ) -> None:
        self._key = key
        self.directory = directory
        self.incoming = directory / "incoming"
        self._limits = limits
        self._verify = verify_hashes
        self._held: dict[str, Held] = {}
        self._arriving: set[str] = set()
        self._lock = -1

    def open(self) -> None:
        """Takes the lock and builds the index. Raises SpoolError."""
        try:
            for directory in (self.directory, self.incoming):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._lock = os.open(self.directory / ".lock", flags, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            told = f"{self.directory}: another store is using this directory"
            raise SpoolError(told, "Stop it, or choose another directory with --dir.") from None
        except OSError as problem:
            told = f"{self.directory}: the directory cannot be used: {problem.strerror}"
            raise SpoolError(told, "Check --dir, its owner and its permissions.") from problem
        for leftover in self.incoming.iterdir():
            leftover.unlink()
        for path in self.directory.glob("*.zip"):
            self._admit_found(path)

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _admit_found(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                summary = check_envelope(file, self._limits, key=self._key)
            if path.stem != summary.id:
                raise EnvelopeError(f"its manifest says {summary.id}")
        except EnvelopeError as problem:
            path.rename(path.with_suffix(".damaged"))
            log.get().warning("envelope_set_aside", file=path.name, problem=problem.message)
        else:
            self._remember(summary, path)

    def _remember(self, summary: EnvelopeSummary, path: Path) -> None:
        status = path.stat()
        self._held[summary.id] = Held(
            summary.id, summary.studies, summary.instances, status.st_size, status.st_mtime_ns
        )

    def find(self, study: str | None = None) -> list[Held]:
        """Envelopes of a study, or all; newest first."""
        found = [h for h in self._held.values() if study is None or study in h.studies]
        return sorted(found, key=lambda held: (held.stored_ns, held.id), reverse=True)

    def open_archive(self, envelope_id: str) -> BinaryIO:
        """The stored archive, open. Raises HttpError 404."""
        if envelope_id.lower() in self._held:
            with contextlib.suppress(FileNotFoundError):
                return (self.directory / f"{envelope_id.lower()}.zip").open("rb")
        raise HttpError(404, "no envelope with this id is stored here")

    async def keep(self, file: BinaryIO, temporary: Path) -> EnvelopeSummary:
        """Validates what was received, and stores it durably.

        Raises EnvelopeError (invalid), HttpError 409 (the id is stored already), OSError.
        """
        summary = await asyncio.to_thread(
            check_envelope, file, self._limits, verify_hashes=self._verify, key=self._key
        )
        if summary.id in self._held or summary.id in self._arriving:
            raise HttpError(409, f"envelope {summary.id} is stored already; nothing was changed")
        self._arriving.add(summary.id)
        try:
            path = self.directory / f"{summary.id}.zip"
            await asyncio.to_thread(self._settle, file, temporary, path)
            self._remember(summary, path)
        finally:
            self._arriving.discard(summary.id)
        return summary

    def _settle(self, file: BinaryIO, temporary: Path, path: Path) -> None:
        os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(self.directory)


class _Store:
    """The routes over a shelf."""

    def __init__(self, shelf: Shelf, max_body_bytes: int) -> None:
        self._shelf = shelf
        self._max_body_bytes = max_body_bytes
        self._uploads = manners.Slots(manners.MAX_UPLOADS)

    def routes(self) -> list[web.RouteDef]:
        """The published API; GET routes answer HEAD too."""
        one = f"{COLLECTION}/{{id}}"
        return [
            web.get(COLLECTION, self._query),
            web.post(COLLECTION, self._store),
            web.options(COLLECTION, manners.allow("GET", "HEAD", "OPTIONS", "POST")),
            web.get(one, self._archive),
            web.options(one, manners.allow("GET", "HEAD", "OPTIONS")),
            web.get(f"{one}/manifest", self._manifest),
            web.options(f"{one}/manifest", manners.allow("GET", "HEAD", "OPTIONS")),
        ]

    async def _query(self, request: web.Request) -> web.StreamResponse:
        study = manners.study_asked(request)
        wanted = manners.negotiate(request, manners.ZIP, manners.JSON)
        if study is None and wanted != manners.JSON:
            raise HttpError(400, "studyInstanceUid is missing: add ?studyInstanceUid=…")
        found = self._shelf.find(study)
        if study is not None and not found:
            raise HttpError(404, "no envelope of this study is stored here")
        if wanted == manners.JSON:
            return json_answer({"jmixEnvelopes": [held.shown(study) for held in found]})
        with self._shelf.open_archive(found[0].id) as file:
            return await manners.send_archive(request, file, found[0].id)

    async def _archive(self, request: web.Request) -> web.StreamResponse:
        envelope_id = request.match_info["id"]
        with self._shelf.open_archive(envelope_id) as file:
            manners.negotiate(request, manners.ZIP)
            return await manners.send_archive(request, file, envelope_id.lower())

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        with self._shelf.open_archive(request.match_info["id"]) as file:
            manners.negotiate(request, manners.JSON)
            return json_answer(await asyncio.to_thread(read_manifest, file))

    async def _store(self, request: web.Request) -> web.StreamResponse:
        manners.require_zip(request)
        temporary = self._shelf.incoming / f"{uuid.uuid4()}.zip"
        with self._uploads.take(), contextlib.ExitStack() as cleanup:
            cleanup.callback(temporary.unlink, missing_ok=True)
            file = cleanup.enter_context(manners.create_private(temporary))
            received = await manners.receive(request, file, self._max_body_bytes)
            summary = await self._shelf.keep(file, temporary)
        log.get().info("envelope_stored", envelope=summary.id, bytes=received.size)
        where = {"Location": f"{COLLECTION}/{summary.id}"}
        return json_answer({"id": summary.id, "status": "stored"}, 201, where)


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
) -> tuple[web.AppRunner, int]:
    """Serves `directory`; returns the runner (its cleanup() stops it) and the port (0 = any free).

    `key` decrypts what is encrypted, to see that it is an envelope; without it such are refused.
    Raises SpoolError, OSError (the port), and ConfigError for an address beyond this machine
    without a token.
    """
    if token is None and not allow_unauthenticated and not manners.is_loopback(host):
        told = f"the store would give patients' images to everyone who can reach {host}"
        raise ConfigError(told, "Give it a token, bind it to 127.0.0.1, or allow it explicitly.")
    shelf = Shelf(directory, limits=limits or Limits(), verify_hashes=verify_hashes, key=key)
    await asyncio.to_thread(shelf.open)
    guard = manners.Guard(None if token is None else ("Authorization", f"Bearer {token}"))
    routes = _Store(shelf, max_body_bytes).routes()
    runner = manners.make_runner(routes, guard, shutdown_secs=SHUTDOWN_SECS)

    async def close(_: web.Application) -> None:
        shelf.close()

    runner.app.on_cleanup.append(close)
    try:
        await runner.setup()
        listener = _listen(host, port)
        bound: int = listener.getsockname()[1]
        await runner.listen(listener)
    except BaseException:
        await runner.cleanup()
        raise
    return runner, bound


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family, backlog=128)


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
