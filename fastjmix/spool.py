"""Passage 2, disk: building → outbox → sent | rejected. fsync and rename live only here.

State is place. Each step is one rename; each state and what a leftover of it means:

    S1 building/<id>/          being packed: envelope.zip (members so far), draft.json (how to
                               finish it). A crash may leave it: the packer cuts the tail that
                               was never acknowledged, and seals what is whole, or deletes it if
                               nothing was (recovery.py).
       building/<id>.draft/    a draft being made: deleted at start.
       building/*.spill        an instance larger than its lane, not yet whole: deleted at start.
       building/<id>.upload    received by the API, not yet accepted: deleted at start.
    S2 outbox/<id>.zip         sealed, complete, promised. outbox/<id>.json, its ticket, is durable
                               before the archive arrives; a ticket alone is deleted at start.
    S3 sent/<id>.zip           delivered; the ticket beside it holds the receipt. The receipt is
                               durable before the archive moves: a receipt in sent/ whose archive is
                               still in outbox/ is finished at start, without a second upload.
    S4 rejected/<id>.zip       refused for good, or damaged. Kept for a person; never deleted here.

Names are made here, never taken from a peer. Directories are 0700, files 0600.
Knows no HTTP and no DICOM.

Still wrong: a spool on a file system without atomic rename (some network mounts) is not detected.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from fastjmix.claim import FORMAT, claim
from fastjmix.errors import DamagedTicket, SpoolError
from fastjmix.failpoints import reach

State = Literal["outbox", "sent", "rejected"]
Bytes = bytes | bytearray | memoryview

IOV_MAX: Final = 1024
"""Buffers in one pwritev(2); Linux's own limit (UIO_MAXIOV)."""

TICKET_BYTES_MAX: Final = 1 << 20
"""A ticket is about 1 KB; a larger one was not written by us."""


SOFT_RESERVE: Final = (5 << 30, 0.05)
"""Below this much free space (bytes, or this part of the file system if that is less) new
associations are rejected for now."""

HARD_RESERVE: Final = (1 << 30, 0.01)
"""Below this much free space instances are answered with A700. What is left is for sealing."""

ROOM_SECS: Final = 0.25
"""How long an answer about free space is believed."""


class Room:
    """Free space on the file system of the spool, asked at most every ROOM_SECS."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._asked = 0.0
        self._free = 0
        self._size = 0

    def _below(self, reserve: tuple[int, float]) -> bool:
        now = time.monotonic()
        if now - self._asked > ROOM_SECS:
            found = os.statvfs(self._root)
            self._free, self._size = (
                found.f_bavail * found.f_frsize,
                found.f_blocks * found.f_frsize,
            )
            self._asked = now
        return self._free < min(reserve[0], reserve[1] * self._size)

    def low(self) -> bool:
        """Under the soft mark: take no new associations. Raises OSError."""
        return self._below(SOFT_RESERVE)

    def exhausted(self) -> bool:
        """Under the hard mark: take no instances. Raises OSError."""
        return self._below(HARD_RESERVE)


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of a sealed envelope without opening it; JSON beside the archive.

    `size_bytes` is the archive's; `sealed_at` is Unix seconds; `origin` names the process that
    waits for the outcome when `ack` is "uploaded"; `crc32` is that of the whole archive, kept where
    it was received and not sealed here.
    """

    id: str
    pipeline: str
    upstream: str
    ack: str
    studies: tuple[str, ...]
    calling_ae: str
    instances: int
    size_bytes: int
    sealed_at: float
    origin: str
    crc32: int | None = None
    receipt: Mapping[str, Any] | None = None
    refusal: Mapping[str, Any] | None = None

    def dump(self) -> bytes:
        """The ticket as JSON text."""
        shown = {key: value for key, value in asdict(self).items() if value is not None}
        return orjson.dumps({"format": FORMAT, **shown}, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, text: bytes, where: str) -> Ticket:
        """Reads what `dump` wrote. Raises DamagedTicket, naming `where`."""
        try:
            found = orjson.loads(text)
            if (number := found.pop("format")) != FORMAT:
                raise TypeError(f"its format is {number}, this version knows {FORMAT}")
            found["studies"] = tuple(found["studies"])
            ticket = cls(**found)
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as problem:
            raise DamagedTicket(
                f"{where}: not a ticket of fastjmix ({problem})",
                "Move it and its archive to rejected/ by hand, and look at the disk.",
            ) from problem
        return ticket


def _is_id(name: str) -> bool:
    """One of our names. What else a person put beside them is left alone."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable (a file's own fsync does not)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, buffers: Sequence[Bytes], offset: int) -> int:
    """pwritev(2) until every byte is written; returns the offset behind the last one."""
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    index = 0
    while index < len(views):
        batch = views[index : index + IOV_MAX]
        written = os.pwritev(descriptor, batch, offset)
        offset += written
        for view in batch:
            if written < len(view):
                views[index] = view[written:]
                break
            written -= len(view)
            index += 1
    return offset


class Spill:
    """An instance larger than its lane: a file of its own beside the envelopes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, 0o600)
        self.size = 0

    def append(self, buffers: Sequence[Bytes]) -> None:
        """Appends bytes. Raises OSError (ENOSPC and its kin)."""
        self.size = _write_all(self.descriptor, buffers, self.size)

    def drop(self) -> None:
        """Closes and removes the file."""
        os.close(self.descriptor)
        self.path.unlink(missing_ok=True)


class Draft:
    """S1: one envelope being packed, with one writer.

    `end` is the offset behind the last whole member: a failed append leaves it where it was, so
    the next append overwrites the debris.
    """

    def __init__(self, spool: Spool, envelope_id: str, descriptor: int, *, durable: bool) -> None:
        self._spool = spool
        self.id = envelope_id
        self.directory = spool.building / envelope_id
        self.descriptor = descriptor
        self.end = 0
        self._durable = durable
        self._names_durable = False

    @property
    def archive(self) -> Path:
        """Where the archive is while it is being built."""
        return self.directory / "envelope.zip"

    def append(self, buffers: Sequence[Bytes]) -> int:
        """Writes one member behind the last; returns its offset. Raises OSError."""
        start = self.end
        self.end = _write_all(self.descriptor, buffers, start)
        return start

    def join(self, header: Bytes, spill: Spill) -> int:
        """Appends a header and a spilled instance as one member; returns its offset."""
        start = self.end
        offset = _write_all(self.descriptor, [header], start)
        reach("packer.joining")
        done = 0
        while done < spill.size:
            copied = os.copy_file_range(
                spill.descriptor, self.descriptor, spill.size - done, done, offset
            )
            if not copied:
                raise OSError(f"{spill.path} is shorter than what was written to it")
            done += copied
            offset += copied
        self.end = offset
        return start

    def commit(self) -> None:
        """Everything appended so far is durable when this returns.

        The first commit also makes the names durable. Raises OSError; the file must then not be
        synced again (a second fsync would answer success without the data).
        """
        if not self._durable:
            return
        os.fdatasync(self.descriptor)
        if not self._names_durable:
            sync_directory(self.directory)
            sync_directory(self._spool.building)
            self._names_durable = True

    def seal(self, tail: Sequence[Bytes], ticket: Ticket) -> Ticket:
        """Appends `tail` (documents and central directory), and moves the envelope to outbox/.

        Returns the ticket with its final size. Raises OSError; the draft is then still whole.
        """
        size = _write_all(self.descriptor, tail, self.end)
        reach("seal.written")
        os.ftruncate(self.descriptor, size)
        if self._durable:
            os.fdatasync(self.descriptor)
        reach("seal.synced")
        ticket = replace(ticket, size_bytes=size)
        self._spool.publish(self.archive, ticket, durable=self._durable)
        reach("seal.published")
        self.close()
        shutil.rmtree(self.directory)
        reach("seal.removed")
        return ticket

    def abandon(self) -> None:
        """Deletes the draft. Only for one in which nothing was promised."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def close(self) -> None:
        """Closes the file; the draft stays on disk."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(slots=True)
class Leftover:
    """A draft found at start, to be recovered: its directory and what draft.json says."""

    id: str
    directory: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Spool:
    """The four directories under the storage path.

    `durable=False` (durability = "page-cache") leaves out every fsync.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root = root
        self.durable = durable
        self.building = root / "building"
        self.outbox = root / "outbox"
        self.sent = root / "sent"
        self.rejected = root / "rejected"
        self._lock: int | None = None
        self._clock = time.time() - time.monotonic()

    # -- start -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directories, takes the lock, and finishes what a crash left half-done.

        Raises SpoolError: not writable, several file systems, or another fastjmix is using it.
        """
        try:
            for directory in (self.root, self.building, self.outbox, self.sent, self.rejected):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = claim(self.root)
            self._probe()
        except OSError as problem:
            raise SpoolError(
                f"{self.root}: the storage directory cannot be used: {problem.strerror}"
                f" ({problem.filename})",
                "Check [storage.options] path, its owner and its permissions.",
            ) from problem
        self._finish_steps()

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _probe(self) -> None:
        devices = {p.stat().st_dev for p in (self.building, self.outbox, self.sent, self.rejected)}
        if len(devices) != 1:
            raise SpoolError(
                f"{self.root}: building, outbox, sent and rejected are on several file systems",
                "An envelope moves between them by rename: put them on one.",
            )
        probe = self.building / f"{uuid.uuid4()}.upload"
        with probe.open("xb") as file:
            file.write(b"probe")
            file.flush()
            if self.durable:
                os.fdatasync(file.fileno())
        probe.unlink()

    def _finish_steps(self) -> None:
        for pattern in ("*.upload", "*.spill"):
            for unpromised in self.building.glob(pattern):
                unpromised.unlink()
        for unfinished in self.building.glob("*.draft"):
            shutil.rmtree(unfinished)
        for directory in self.building.iterdir():
            if _is_id(directory.name) and self.leftover(directory.name) is None:
                self._without_recipe(directory)
        for state in (self.sent, self.rejected):
            for record in state.glob("*.json"):
                self._finish_move(record, state)
        for record in self.outbox.glob("*.json"):
            if not record.with_suffix(".zip").exists():
                record.unlink()
        for temporary in self.root.glob("*/*.new"):
            temporary.unlink()

    def _without_recipe(self, directory: Path) -> None:
        """A draft whose recipe is gone: kept for a person if there is anything in it."""
        archive = directory / "envelope.zip"
        if archive.exists() and archive.stat().st_size:
            self.set_aside(Leftover(directory.name, directory), "its draft.json cannot be read")
        else:
            shutil.rmtree(directory)

    def _finish_move(self, record: Path, state: Path) -> None:
        """A record whose archive did not follow: the archive moves now."""
        if record.with_suffix(".zip").exists():
            return
        waiting = self.outbox / f"{record.stem}.zip"
        if waiting.exists():
            self._rename(waiting, state / waiting.name)
        else:
            record.unlink()

    def leftovers(self) -> list[Leftover]:
        """Drafts that an earlier process left, oldest first."""
        found = []
        for directory in self.building.iterdir():
            leftover = self.leftover(directory.name)
            if leftover is not None:
                with contextlib.suppress(FileNotFoundError):  # another packer sealed it just now
                    found.append((directory.stat().st_mtime_ns, leftover))
        return [leftover for _, leftover in sorted(found, key=lambda one: one[0])]

    def leftover(self, envelope_id: str) -> Leftover | None:
        """A draft as a successor sees it; None when there is no readable one."""
        directory = self.building / envelope_id
        try:
            recipe = orjson.loads((directory / "draft.json").read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        if not isinstance(recipe, dict) or not isinstance(recipe.get("packer"), int):
            return None
        if recipe.get("format", FORMAT) != FORMAT:
            return None
        return Leftover(envelope_id, directory, recipe)

    def set_aside(self, leftover: Leftover, why: str) -> None:
        """A draft that cannot be sealed: S1 → S4, for a person. Raises OSError."""
        recipe = leftover.recipe
        archive = leftover.directory / "envelope.zip"
        ticket = Ticket(
            leftover.id,
            str(recipe.get("pipeline", "")),
            str(recipe.get("upstream", "")),
            str(recipe.get("ack", "stored")),
            (),
            str(recipe.get("calling_ae", "")),
            0,
            archive.stat().st_size,
            time.time(),
            "recovery",
            refusal={"why": f"damaged: {why}"},
        )
        self._write_file(self.rejected / f"{leftover.id}.json", ticket.dump(), durable=self.durable)
        self._rename(archive, self.path("rejected", leftover.id))
        shutil.rmtree(leftover.directory)

    def reopen(self, leftover: Leftover) -> Draft:
        """The draft of a leftover, to be cut and sealed. Raises OSError."""
        descriptor = os.open(leftover.directory / "envelope.zip", os.O_RDWR | os.O_CLOEXEC)
        return Draft(self, leftover.id, descriptor, durable=self.durable)

    # -- S1 ----------------------------------------------------------------------------------

    def new_draft(self, recipe: Mapping[str, Any], *, durable: bool | None = None) -> Draft:
        """A new envelope in building/. `recipe` tells a later process how to finish it.

        Raises OSError.
        """
        envelope_id = str(uuid.uuid4())
        keep = self.durable if durable is None else durable
        # Made under another name: whoever finds building/<id> finds it whole.
        unfinished = self.building / f"{envelope_id}.draft"
        unfinished.mkdir(mode=0o700)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._write_file(unfinished / "draft.json", orjson.dumps(recipe), durable=keep)
            descriptor = os.open(unfinished / "envelope.zip", flags, 0o600)
            unfinished.rename(self.building / envelope_id)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return Draft(self, envelope_id, descriptor, durable=keep)

    def new_spill(self, owner: str) -> Spill:
        """A file in building/ for an instance larger than its lane. Raises OSError."""
        return Spill(self.building / f"{owner}-{uuid.uuid4()}.spill")

    def drop_spills(self, owner: str) -> None:
        """Deletes what a former process of this name left. Nothing of it was promised."""
        for spill in self.building.glob(f"{owner}-*.spill"):
            spill.unlink(missing_ok=True)

    def new_upload(self) -> Path:
        """A name in building/ for an archive that the API is receiving."""
        return self.building / f"{uuid.uuid4()}.upload"

    def admit(self, temporary: Path, ticket: Ticket) -> None:
        """An archive received whole (see `new_upload`) → outbox. Raises OSError."""
        if self.durable:
            descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        self.publish(temporary, ticket, durable=self.durable)

    def publish(self, archive: Path, ticket: Ticket, *, durable: bool) -> None:
        """S1 → S2. The ticket first, so that an archive in outbox/ always has one."""
        self._write_file(self.outbox / f"{ticket.id}.json", ticket.dump(), durable=durable)
        self._rename(archive, self.outbox / f"{ticket.id}.zip", durable=durable)

    # -- S2 and on ---------------------------------------------------------------------------

    def waiting(self) -> list[str]:
        """Ids in outbox/, oldest first."""
        found = []
        with os.scandir(self.outbox) as entries:
            for entry in entries:
                if entry.name.endswith(".zip"):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((entry.stat().st_mtime_ns, entry.name[:-4]))
        return [name for _, name in sorted(found)]

    def path(self, state: State, envelope_id: str) -> Path:
        """Where the archive is, or would be."""
        return self.root / state / f"{envelope_id}.zip"

    def ticket(self, state: State, envelope_id: str) -> Ticket:
        """Raises FileNotFoundError, DamagedTicket."""
        record = self.root / state / f"{envelope_id}.json"
        with record.open("rb") as file:
            return Ticket.load(file.read(TICKET_BYTES_MAX), str(record))

    def find(self, envelope_id: str) -> tuple[State, Path] | None:
        """Where an envelope that may be served is: outbox or sent."""
        states: tuple[State, ...] = ("outbox", "sent", "outbox")  # it may move while we look
        for state in states:
            path = self.path(state, envelope_id)
            if path.exists():
                return state, path
        return None

    def deliver(self, envelope_id: str, receipt: Mapping[str, Any]) -> None:
        """S2 → S3; the receipt is durable before the archive moves. Raises OSError."""
        ticket = self.ticket("outbox", envelope_id)
        self._move("sent", replace(ticket, receipt=receipt))

    def reject(self, envelope_id: str, refusal: Mapping[str, Any]) -> None:
        """S2 → S4, with the reason kept beside it. Raises OSError."""
        try:
            ticket = self.ticket("outbox", envelope_id)
        except (DamagedTicket, FileNotFoundError):
            ticket = Ticket(envelope_id, "", "", "stored", (), "", 0, 0, time.time(), "")
        self._move("rejected", replace(ticket, refusal=refusal))

    def withdraw(self, envelope_id: str) -> None:
        """Deletes an envelope in outbox/ that was never promised to anyone. Raises OSError."""
        self.path("outbox", envelope_id).unlink(missing_ok=True)
        (self.outbox / f"{envelope_id}.json").unlink(missing_ok=True)
        if self.durable:
            sync_directory(self.outbox)

    def retain(self, max_age_secs: float | None, max_bytes: int | None) -> list[str]:
        """Removes the oldest delivered envelopes beyond either bound; returns their ids.

        Only ever looks at sent/: what is not delivered is never deleted to make room.
        """
        removed = []
        total = 0
        # The earlier of two clocks: one that was set, either way, makes nothing older than it is.
        now = min(time.time(), self._clock + time.monotonic())
        for modified, size, envelope_id in self._sent_newest_first():
            total += size
            old = max_age_secs is not None and now - modified > max_age_secs
            if old or (max_bytes is not None and total > max_bytes):
                self.path("sent", envelope_id).unlink(missing_ok=True)
                (self.sent / f"{envelope_id}.json").unlink(missing_ok=True)
                removed.append(envelope_id)
        return removed

    def _sent_newest_first(self) -> Iterator[tuple[float, int, str]]:
        found = []
        with os.scandir(self.sent) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    archive = self.sent / f"{entry.name[:-5]}.zip"
                    with contextlib.suppress(FileNotFoundError):
                        delivered = entry.stat().st_mtime
                        found.append((delivered, archive.stat().st_size, entry.name[:-5]))
        return iter(sorted(found, reverse=True))

    # -- steps -------------------------------------------------------------------------------

    def _move(self, state: State, ticket: Ticket) -> None:
        target = self.root / state / f"{ticket.id}.json"
        self._write_file(target, ticket.dump(), durable=self.durable)
        reach("move.recorded")
        self._rename(self.path("outbox", ticket.id), self.path(state, ticket.id))
        reach("move.moved")
        (self.outbox / f"{ticket.id}.json").unlink(missing_ok=True)

    def _write_file(self, path: Path, data: bytes, *, durable: bool) -> None:
        """A whole file or none: written under another name, then renamed."""
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, [data], 0)
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._rename(temporary, path, durable=durable)

    def _rename(self, source: Path, target: Path, *, durable: bool | None = None) -> None:
        source.rename(target)
        reach("spool.renamed")
        if self.durable if durable is None else durable:
            sync_directory(target.parent)
