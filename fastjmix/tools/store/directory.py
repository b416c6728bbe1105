"""Keeps the embedded store's directory: what is received, stored and deleted (index.py: found).

Wanted: `ls` and `unzip` work on the store; no start loses a stored envelope.
Guaranteed: the store never replaces or renames a stored envelope, with one exception: a file of its
name that is no valid envelope becomes <id>.damaged. A file that cannot be checked (its key is
missing, it cannot be read, it is no file) stays as it is. Names that the store does not give are
left alone. A name is given once: no file is replaced by another.
Still wrong: the index is made again from all files at each start; images are not read then.
Encrypted envelopes are decrypted once more, and written nowhere; without their key no study lists
them.

States on disk:

    <dir>/incoming/<uuid>.zip    being received; deleted at the next start
    <dir>/<id>.zip               stored
    <dir>/<id>.damaged           was <id>.zip, and is no valid envelope: kept for a person
    <dir>/.lock                  held while a store runs
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from fastjmix import log
from fastjmix.errors import SpoolError
from fastjmix.httpd.archive_checks import Checks
from fastjmix.httpd.responses import HttpError
from fastjmix.jmix.read.admission import EnvelopeSummary, Limits
from fastjmix.spool import sync_directory
from fastjmix.spool.reading import open_archive
from fastjmix.spool.rename import rename_new
from fastjmix.tools.store.index import NAME, Held, Index, warn

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

ARRIVING_SECS: Final = 1
"""Retry-After for an id that is being stored: a check and an fsync take less, as a rule."""

UNREADABLE_SECS: Final = 60
"""Retry-After for an id whose file is here and cannot be checked: a person has to act."""


class StoreDirectory:
    """The directory; `index` says what is in it. One process at a time: it holds a lock."""

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
        self.index = Index(directory, limits, key)
        self._arriving: set[str] = set()
        self._checks = Checks()
        self._lock = -1

    def open(self) -> None:
        """Takes the lock, deletes unfinished uploads, and builds the index. Raises SpoolError."""
        for directory in (self.directory, self.incoming):
            with _usable(directory):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.directory / ".lock"
        with _usable(lock):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            self._lock = os.open(lock, flags, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            what = f"{self.directory}: another store is using this directory"
            raise SpoolError(what, "Stop it, or name another directory.") from None
        try:
            with _usable(self.incoming):
                _delete_uploads(self.incoming)
            with _usable(self.directory):
                self.index.find_stored()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Releases the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def open_archive(self, envelope_id: str) -> BinaryIO:
        """Opens the stored archive. Raises HttpError 404; 503 for one that is being stored."""
        known = envelope_id.lower()
        if known in self.index.held:
            with contextlib.suppress(FileNotFoundError):
                return open_archive(self._path(known))
        if known in self._arriving:
            raise _later(f"envelope {known} is being stored", ARRIVING_SECS)
        raise HttpError(404, "no envelope with this id is stored here")

    def _path(self, envelope_id: str) -> Path:
        return self.directory / f"{envelope_id}.zip"

    def new_upload(self) -> Path:
        """Returns an unused name in incoming/."""
        return self.incoming / f"{uuid.uuid4()}.zip"

    async def keep(self, file: BinaryIO, temporary: Path) -> EnvelopeSummary:
        """Validates what was received, and stores it durably.

        Raises EnvelopeError (invalid), HttpError 409 (the id is stored, and its manifest can be
        read), 503 (it is being stored, or its file cannot be checked), OSError.
        """
        summary = await self._checks.check(
            file, limits=self._limits, verify_hashes=self._verify, key=self._key
        )
        if summary.id in self._arriving:
            raise _later(f"envelope {summary.id} is being stored", ARRIVING_SECS)
        self._arriving.add(summary.id)
        try:
            self.index.held[summary.id] = await asyncio.to_thread(
                self._store, file, temporary, summary
            )
        finally:
            self._arriving.discard(summary.id)
        return summary

    async def delete(self, envelope_id: str) -> None:
        """Deletes a stored envelope for good; a client that is fetching it gets the rest.

        Raises HttpError 404; 503 while one of this id is being stored or deleted; OSError.
        """
        if envelope_id in self._arriving:
            raise _later(f"envelope {envelope_id} is being stored", ARRIVING_SECS)
        if envelope_id not in self.index.held:
            raise HttpError(404, "no envelope with this id is stored here")
        self._arriving.add(envelope_id)  # a POST of this id is asked to come later
        try:
            await asyncio.to_thread(self._remove, envelope_id)
        finally:
            self._arriving.discard(envelope_id)

    def _remove(self, envelope_id: str) -> None:
        self._path(envelope_id).unlink(missing_ok=True)
        self.index.held.pop(envelope_id, None)
        sync_directory(self.directory)

    def _store(self, file: BinaryIO, temporary: Path, summary: EnvelopeSummary) -> Held:
        """Renames a received file durably. Raises HttpError 409, 503, OSError."""
        path = self._path(summary.id)
        if os.path.lexists(path):
            self._refuse_second(summary.id, path)
        os.fsync(file.fileno())
        try:
            rename_new(temporary, path)
        except FileExistsError:  # a person put it there just now
            raise _later(f"envelope {summary.id} is being stored", ARRIVING_SECS) from None
        try:
            sync_directory(self.directory)
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()  # it has no answer, and must not be found at the next start
            raise
        found = os.fstat(file.fileno())
        return Held(
            summary.id, summary.studies, summary.instances, found.st_size, found.st_mtime_ns
        )

    def _refuse_second(self, envelope_id: str, path: Path) -> None:
        """Raises the refusal of an id whose name is taken; returns when it is free again.

        A client that gets 409 deletes its own copy. So the stored one is read to its end first: the
        disk may have lost a part of it since.
        """
        if not os.path.lexists(path):  # a person took it away
            self.index.held.pop(envelope_id, None)
            return
        result, why = self.index.admit(path, contents=True)
        if result in ("held", "locked"):
            what = f"envelope {envelope_id} is stored already; nothing was changed"
            raise HttpError(409, what)
        if result == "unreadable":
            log.get().warning("envelope_unreadable", file=path.name, problem=why)
            what = f"a file of envelope {envelope_id} is here and cannot be read: see the log"
            raise _later(what, UNREADABLE_SECS)


def _delete_uploads(incoming: Path) -> None:
    """Deletes unfinished uploads of a killed store: files of its user, with names that it
    gives."""
    foreign = []
    for entry in os.scandir(incoming):
        try:
            found = entry.stat(follow_symlinks=False)
            ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
            if not NAME.fullmatch(entry.name) or not ours:
                foreign.append(entry.name)
                continue
            Path(entry.path).unlink()
        except OSError as problem:
            foreign.append(f"{entry.name} ({problem.strerror})")
    warn("foreign_names_left", incoming, foreign)


def _later(message: str, seconds: int) -> HttpError:
    return HttpError(503, f"{message}: try again later", {"Retry-After": str(seconds)})


@contextlib.contextmanager
def _usable(path: Path) -> Iterator[None]:
    """Raises SpoolError that names `path` in place of an OSError."""
    try:
        yield
    except OSError as problem:
        what = f"{path}: the directory cannot be used: {problem.strerror or problem}"
        raise SpoolError(
            what, "Check its owner and its permissions, or name another directory."
        ) from problem
