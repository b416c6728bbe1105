"""Keeps the embedded store's directory: the envelopes in it, and the index over them.

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
import re
import stat
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fastjmix import log
from fastjmix.errors import EnvelopeError, SpoolError, printable
from fastjmix.httpd.archive_checks import Checks
from fastjmix.httpd.responses import HttpError
from fastjmix.jmix.read.admission import EnvelopeSummary, Limits, check_envelope
from fastjmix.spool import sync_directory
from fastjmix.spool.reading import open_archive
from fastjmix.spool.rename import rename_new

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

NAME: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zip")
"""A name that the store gives."""

ARRIVING_SECS: Final = 1
"""Retry-After for an id that is being stored: a check and an fsync take less, as a rule."""

UNREADABLE_SECS: Final = 60
"""Retry-After for an id whose file is here and cannot be checked: a person has to act."""

DAMAGED_MAX: Final = 100
"""Damaged files of one id that are renamed, each to a name of its own."""

SHOWN_NAMES: Final = 3
"""Names in a warning about many files."""


@dataclass(frozen=True, slots=True)
class Held:
    """One stored envelope in the index. `stored_ns`: Unix time of arrival, in ns."""

    id: str
    studies: tuple[str, ...]
    instances: int
    size_bytes: int
    stored_ns: int

    def entry(self, study: str | None = None) -> Mapping[str, Any]:
        """Returns the entry in a JSON list."""
        return {
            "id": self.id,
            "studyInstanceUid": study or (self.studies[0] if self.studies else None),
            "studyInstanceUids": self.studies,
            "state": "stored",
            "instances": self.instances,
            "sizeBytes": self.size_bytes,
        }


class StoreDirectory:
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
                self._delete_uploads()
            with _usable(self.directory):
                self._find_stored()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Releases the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # -- at the start --------------------------------------------------------------------------

    def _delete_uploads(self) -> None:
        """Deletes unfinished uploads of a killed store: files of its user, with names that it
        gives."""
        foreign = []
        for entry in os.scandir(self.incoming):
            try:
                found = entry.stat(follow_symlinks=False)
                ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
                if not NAME.fullmatch(entry.name) or not ours:
                    foreign.append(entry.name)
                    continue
                Path(entry.path).unlink()
            except OSError as problem:
                foreign.append(f"{entry.name} ({problem.strerror})")
        _warn("foreign_names_left", self.incoming, foreign)

    def _find_stored(self) -> None:
        """Indexes the envelopes that are here; logs which files are not in the index, and why."""
        found: dict[str, list[str]] = {"foreign": [], "unreadable": [], "locked": []}
        for entry in os.scandir(self.directory):
            if NAME.fullmatch(entry.name):
                result, why = self._admit(Path(entry.path))
                if result in found:
                    found[result].append(f"{entry.name} ({why})" if why else entry.name)
            elif entry.name.endswith(".zip"):
                found["foreign"].append(entry.name)
        _warn("foreign_names_left", self.directory, found["foreign"])
        _warn("envelopes_unreadable", self.directory, found["unreadable"])
        locked = "envelopes_of_another_key" if self._key else "envelopes_without_their_key"
        hint = "they are kept, and served as they are; name their key with --decryption-key"
        _warn(locked, self.directory, found["locked"], hint=hint)

    def _admit(self, path: Path, *, contents: bool = False) -> tuple[str, str]:
        """Indexes one file. Returns the result and the reason: "held", "locked" (indexed, not
        decrypted), "unreadable" or "damaged"; only a damaged one is renamed. With `contents` its
        images are read, too."""
        try:
            with open_archive(path) as file:
                summary, size, stored_ns = self._summary(file, path, contents)
        except EnvelopeError as problem:
            return self._rename_damaged(path, problem.message)
        except OSError as problem:
            return "unreadable", problem.strerror or str(problem)
        self._held[summary.id] = Held(
            summary.id, summary.studies, summary.instances, size, stored_ns
        )
        return ("locked" if summary.unopened else "held"), ""

    def _summary(
        self, file: BinaryIO, path: Path, contents: bool
    ) -> tuple[EnvelopeSummary, int, int]:
        """Returns the summary of a file that was stored, its size, and when. Raises EnvelopeError.

        A payload that cannot be decrypted is checked without the key: a wrong key is no fault of
        the file.
        """
        found = os.fstat(file.fileno())
        try:
            summary = check_envelope(file, self._limits, contents=contents, key=self._key)
        except EnvelopeError:
            summary = check_envelope(file, self._limits, contents=contents, unopened=True)
            if not summary.unopened:  # it is not encrypted, so its own fault counts
                raise
        if path.stem != summary.id:
            raise EnvelopeError(f"its manifest says {summary.id}")
        return summary, found.st_size, found.st_mtime_ns

    def _rename_damaged(self, path: Path, problem: str) -> tuple[str, str]:
        self._held.pop(path.stem, None)
        names = [path.with_suffix(".damaged")]
        names += [path.with_suffix(f".{number}.damaged") for number in range(2, DAMAGED_MAX + 1)]
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    rename_new(path, name)
                    log.get().warning("envelope_set_aside", file=path.name, problem=problem)
                    return "damaged", problem
        except OSError as failure:
            return "unreadable", f"{problem}; {failure.strerror or failure}"
        return "unreadable", f"{problem}; there are {DAMAGED_MAX} damaged files of this id already"

    # -- while it runs -------------------------------------------------------------------------

    def of_study(self, study: str | None = None) -> list[Held]:
        """Returns the envelopes of a study, or all, in no order."""
        held = list(self._held.values())  # at once: the threads that store and delete change it
        return [one for one in held if study is None or study in one.studies]

    def open_archive(self, envelope_id: str) -> BinaryIO:
        """Opens the stored archive. Raises HttpError 404; 503 for one that is being stored."""
        known = envelope_id.lower()
        if known in self._held:
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
            self._held[summary.id] = await asyncio.to_thread(self._store, file, temporary, summary)
        finally:
            self._arriving.discard(summary.id)
        return summary

    async def delete(self, envelope_id: str) -> None:
        """Deletes a stored envelope for good; a client that is fetching it gets the rest.

        Raises HttpError 404; 503 while one of this id is being stored or deleted; OSError.
        """
        if envelope_id in self._arriving:
            raise _later(f"envelope {envelope_id} is being stored", ARRIVING_SECS)
        if envelope_id not in self._held:
            raise HttpError(404, "no envelope with this id is stored here")
        self._arriving.add(envelope_id)  # a POST of this id is asked to come later
        try:
            await asyncio.to_thread(self._remove, envelope_id)
        finally:
            self._arriving.discard(envelope_id)

    def _remove(self, envelope_id: str) -> None:
        self._path(envelope_id).unlink(missing_ok=True)
        self._held.pop(envelope_id, None)
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
            self._held.pop(envelope_id, None)
            return
        result, why = self._admit(path, contents=True)
        if result in ("held", "locked"):
            what = f"envelope {envelope_id} is stored already; nothing was changed"
            raise HttpError(409, what)
        if result == "unreadable":
            log.get().warning("envelope_unreadable", file=path.name, problem=why)
            what = f"a file of envelope {envelope_id} is here and cannot be read: see the log"
            raise _later(what, UNREADABLE_SECS)


def _warn(event: str, directory: Path, names: list[str], **more: str) -> None:
    """Logs one line about all of them."""
    if names:
        first = ", ".join(printable(name) for name in sorted(names)[:SHOWN_NAMES])
        log.get().warning(event, directory=str(directory), count=len(names), first=first, **more)


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
