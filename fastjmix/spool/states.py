"""The four directories and the steps between them. The states are listed in __init__.py.

Wanted: each step is one rename, and whatever a crash leaves of a step is finished or undone.
Guaranteed: a record is durable before the archive that it is about moves.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import orjson

from fastjmix.claim import FORMAT
from fastjmix.errors import DamagedTicket, SpoolError
from fastjmix.failpoints import reach
from fastjmix.spool import journal
from fastjmix.spool.draft import ARCHIVE, RECIPE, SEALED, SUSPECT, TICKET, Draft, Leftover
from fastjmix.spool.files import remove_tree, sync_directory, write_all
from fastjmix.spool.ground import standing_on
from fastjmix.spool.room import SENT_INODES
from fastjmix.spool.root import Root
from fastjmix.spool.spill import Spill
from fastjmix.spool.ticket import Ticket

State = Literal["outbox", "sent", "rejected"]

TICKET_BYTES_MAX: Final = 1 << 20
"""A ticket is about 1 KB; a larger one was not written by us."""

PROBE: Final = b"fastjmix was here"


def _is_id(name: str) -> bool:
    """One of our names. What else a person put beside them is left alone."""
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _sealed_at(entry: os.DirEntry[str]) -> tuple[float, str] | None:
    """When an archive was sealed, and its id; None for another file, or one that has left."""
    if not entry.name.endswith(".zip"):
        return None
    with contextlib.suppress(FileNotFoundError):
        return entry.stat().st_mtime, entry.name[:-4]
    return None


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
        self._claimed = Root(root)
        self._clock = time.time() - time.monotonic()

    # -- start -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directories, takes the lock, and finishes what a crash left half-done.

        Raises SpoolError: a symbolic link, not writable, not ours, in memory, on several file
        systems, or another fastjmix is using it.
        """
        self._refuse_links()
        try:
            for directory in (self.root, self.building, self.outbox, self.sent, self.rejected):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._claimed.claim()
            self._check_ground()
            self.probe()
        except OSError as problem:
            raise SpoolError(
                f"{self.root}: the storage directory cannot be used: {problem.strerror}"
                f" ({problem.filename})",
                "Check [storage.options] path, its owner and its permissions.",
            ) from problem
        self._finish_steps()

    def inherited(self) -> Spool:
        """The same for a forked process, which has a part in the lock."""
        child = Spool(self.root, durable=self.durable)
        child._claimed = self._claimed
        return child

    def release(self) -> None:
        """Gives the lock back."""
        self._claimed.release()

    def reclaim(self) -> None:
        """Makes the directories whole again where they, or all of the storage, were made anew.

        Raises OSError, SpoolError.
        """
        if self._claimed.claimed:
            self._refuse_links()
            self._claimed.reclaim()
            for directory in (self.building, self.outbox, self.sent, self.rejected):
                directory.mkdir(mode=0o700, exist_ok=True)
            self._check_ground()

    def _refuse_links(self) -> None:
        """Who owns a link decides what is behind it, tomorrow too. Those above `root` are the
        administrator's. Raises SpoolError."""
        if self.root.is_symlink():
            raise SpoolError(
                f"{self.root}: is a symbolic link",
                f"Set [storage.options] path to what it leads to: {self.root.resolve()}",
            )
        for path in (self.building, self.outbox, self.sent, self.rejected):
            if path.is_symlink():
                raise SpoolError(
                    f"{path}: is a symbolic link, and envelopes move through it by rename",
                    "Put the directory itself there, or mount the storage's disk one level up.",
                )

    def _check_ground(self) -> None:
        """What a spool needs of the file system under it. Raises SpoolError, OSError."""
        states = (self.building, self.outbox, self.sent, self.rejected)
        found = {path: path.stat() for path in states}
        if len({one.st_dev for one in found.values()}) != 1:
            raise SpoolError(
                f"{self.root}: building, outbox, sent and rejected are on several file systems",
                "An envelope moves between them by rename: put them on one.",
            )
        for path, one in found.items():
            if one.st_uid != os.geteuid():
                raise SpoolError(
                    f"{path}: belongs to user {one.st_uid}, and fastjmix runs as {os.geteuid()}",
                    "Run fastjmix as the user whose directory it is, or change its owner.",
                )
        kind = standing_on(self.root)
        if self.durable and kind is not None:
            raise SpoolError(
                f"{self.root}: is on {kind}, which is memory: nothing in it survives a power cut",
                'Put [storage.options] path on a disk, or set durability = "page-cache" for all.',
            )

    def probe(self) -> None:
        """Everything that a promise needs of the disk, once, with a small file. Raises OSError."""
        name = f"{uuid.uuid4()}.new"
        here, there = self.building / name, self.outbox / name
        try:
            with here.open("xb") as file:
                file.write(PROBE)
                file.flush()
                if self.durable:
                    os.fdatasync(file.fileno())
            here.rename(there)
            if self.durable:
                sync_directory(self.outbox)
            if there.read_bytes() != PROBE:
                raise OSError(errno.EIO, "what was written reads differently", str(there))
        finally:
            for path in (here, there):
                path.unlink(missing_ok=True)

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
            # With its draft still in building/, the seal is done again with the ticket's time.
            draft = self.building / record.stem
            if not record.with_suffix(".zip").exists() and not draft.exists():
                record.unlink()
        for temporary in self.root.glob("*/*.new"):
            temporary.unlink()

    def _without_recipe(self, directory: Path) -> None:
        """A draft whose recipe is gone: kept for a person if there is anything in it."""
        leftover = Leftover(directory.name, directory)
        archives = (leftover.archive, leftover.sealed)
        if any(archive.exists() and archive.stat().st_size for archive in archives):
            self.set_aside(leftover, "its draft.json cannot be read")
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
            recipe = orjson.loads((directory / RECIPE).read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return None
        if not isinstance(recipe, dict) or not isinstance(recipe.get("packer"), int):
            return None
        if recipe.get("format", FORMAT) != FORMAT:
            return None
        return Leftover(envelope_id, directory, recipe, (directory / SUSPECT).exists())

    def set_aside(self, leftover: Leftover, why: str) -> None:
        """A draft that cannot be sealed: S1 → S4, for a person. Raises OSError."""
        sealed = leftover.sealed
        self._keep(leftover, sealed if sealed.exists() else leftover.archive, why)
        shutil.rmtree(leftover.directory)

    def keep_damaged(self, leftover: Leftover, pieces: Iterable[bytes], why: str) -> None:
        """Bytes of a draft that could not be verified → S4, under the draft's id. Raises OSError.

        The draft itself stays where it is; doing this again replaces what was kept.
        """
        kept = leftover.directory / "damaged"
        descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            end = 0
            for piece in pieces:
                end = write_all(descriptor, [piece], end)
            if self.durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        self._keep(leftover, kept, why)

    def _keep(self, leftover: Leftover, file: Path, why: str) -> None:
        recipe = leftover.recipe
        ticket = Ticket(
            leftover.id,
            str(recipe.get("pipeline", "")),
            str(recipe.get("upstream", "")),
            str(recipe.get("ack", "stored")),
            (),
            str(recipe.get("calling_ae", "")),
            0,
            file.stat().st_size,
            time.time(),
            "recovery",
            refusal={"why": f"damaged: {why}"},
        )
        self._write_file(self.rejected / f"{leftover.id}.json", ticket.dump(), durable=self.durable)
        self._rename(file, self.path("rejected", leftover.id))

    def reopen(self, leftover: Leftover) -> Draft:
        """The draft of a leftover, to be read and sealed. Raises OSError.

        What the page cache holds of it is dropped first: after a failed sync it may be what the
        disk never got. (Pages that were not yet written stay, as they must.)
        """
        descriptor = os.open(leftover.archive, os.O_RDWR | os.O_CLOEXEC)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return Draft(self, leftover.id, leftover.recipe, descriptor, durable=self.durable)

    def drop(self, leftover: Leftover, *, durable: bool = False) -> None:
        """Deletes a draft that counts no more. Raises OSError while it looks as if it did.

        One rename decides: a `.draft` is swept by a successor. So who dies between two of its files
        leaves nothing that stays until the next start; and of two drafts with the same promises
        (`durable`, for a copy that is) one is recovered.
        """
        gone = self._unfinished(leftover.recipe, leftover.id)
        leftover.directory.rename(gone)
        if durable and self.durable:
            sync_directory(self.building)
        try:
            reach("spool.dropping")
        finally:
            remove_tree(gone)

    def discard(self, leftover: Leftover) -> None:
        """A draft in which nothing was promised, or whose archive is in outbox/. Raises OSError."""
        if self.durable and not leftover.archive.exists():
            sync_directory(self.outbox)  # the seal may have ended before it could do that
        self.drop(leftover)

    # -- S1 ----------------------------------------------------------------------------------

    def new_draft(self, recipe: Mapping[str, Any], *, durable: bool | None = None) -> Draft:
        """A new envelope in building/. `recipe` tells a later process how to finish it.

        Raises OSError.
        """
        envelope_id = str(uuid.uuid4())
        keep = self.durable if durable is None else durable
        # Made under another name: whoever finds building/<id> finds it whole.
        unfinished = self._unfinished(recipe, envelope_id)
        opened: list[int] = []
        self._claimed.check()
        try:
            unfinished.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._write_file(unfinished / RECIPE, orjson.dumps(recipe), durable=keep)
            opened.extend(
                os.open(unfinished / name, flags, 0o600) for name in (ARCHIVE, journal.NAME)
            )
            unfinished.rename(self.building / envelope_id)
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            remove_tree(unfinished)
            raise
        archive, promises = opened
        return Draft(self, envelope_id, recipe, archive, promises=promises, durable=keep)

    def new_spill(self, owner: str) -> Spill:
        """A file in building/ for an instance larger than its lane. Raises OSError."""
        return Spill(self.building / f"{owner}-{uuid.uuid4()}.spill")

    def sweep(self, owner: str) -> None:
        """Deletes what a former process of this name left, and nothing was promised of."""
        for spill in self.building.glob(f"{owner}-*.spill"):
            spill.unlink(missing_ok=True)
        for unfinished in self.building.glob(f"{owner}-*.draft"):
            shutil.rmtree(unfinished, ignore_errors=True)

    def _unfinished(self, recipe: Mapping[str, Any], envelope_id: str) -> Path:
        """Where a draft is before it counts, and when it counts no more: see `sweep`."""
        return self.building / f"packer-{recipe.get('packer')}-{envelope_id}.draft"

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

    def settle(self, archive: Path, directory: Path, ticket: Ticket, *, durable: bool) -> None:
        """An archive in another form, written and synced, becomes the one that counts in its draft.

        Raises OSError.
        """
        self._write_file(directory / TICKET, ticket.dump(), durable=durable)
        self._rename(archive, directory / SEALED, durable=durable)
        reach("encrypt.settled")

    def move_settled(self, directory: Path, ticket: Ticket, *, durable: bool) -> None:
        """S1 → S2 for an archive that `settle` put there. The form that was built is gone before,
        durably: else it would be sealed once more after a crash. Raises OSError.
        """
        (directory / ARCHIVE).unlink(missing_ok=True)
        if durable:
            sync_directory(directory)
        self.publish(directory / SEALED, ticket, durable=durable)
        reach("seal.published")

    def finish(self, leftover: Leftover) -> Ticket | None:
        """Moves a leftover on whose archive is there in its other form; None when it is not.

        Raises OSError, DamagedTicket.
        """
        if not leftover.sealed.exists():
            return None
        with (leftover.directory / TICKET).open("rb") as file:
            ticket = Ticket.load(file.read(TICKET_BYTES_MAX), str(leftover.directory / TICKET))
        self.move_settled(leftover.directory, ticket, durable=self.durable)
        with contextlib.suppress(OSError):  # what stays is deleted at the next start
            self.drop(leftover)
        return ticket

    # -- S2 and on ---------------------------------------------------------------------------

    def waiting(self, known: Callable[[str], bool] | None = None) -> list[str]:
        """Ids in outbox/, oldest first; without those that are `known`. Raises OSError."""
        with os.scandir(self.outbox) as entries:
            new = (e for e in entries if not (known and known(e.name.removesuffix(".zip"))))
            return [name for _, name in sorted(filter(None, map(_sealed_at, new)))]

    def oldest_waiting(self) -> float | None:
        """When the oldest envelope in outbox/ was sealed, in Unix seconds; None when it is empty.

        Raises OSError.
        """
        with os.scandir(self.outbox) as entries:
            return min(
                (one[0] for one in map(_sealed_at, entries) if one is not None), default=None
            )

    def some_waiting(
        self, after: tuple[float, str], before: float, count: int
    ) -> list[tuple[float, str]]:
        """Of outbox/ the `count` oldest behind `after`, sealed before `before`: (Unix s, id) each.

        Raises OSError.
        """
        with os.scandir(self.outbox) as entries:
            found = (one for one in map(_sealed_at, entries) if one is not None)
            return heapq.nsmallest(count, (one for one in found if after < one < (before, "")))

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

    def retain(
        self,
        max_age_secs: float | None,
        max_bytes: int | None,
        wanted: int = 0,
        wanted_inodes: int = 0,
    ) -> list[str]:
        """Removes the oldest delivered envelopes beyond either bound; returns their ids.

        Of those within both, the oldest go too until `wanted` bytes are free again, and
        `wanted_inodes` inodes. Only ever looks at sent/: what is not delivered is never deleted to
        make room. Raises OSError.
        """
        removed: list[str] = []
        # The earlier of two clocks: one that was set, either way, makes nothing older than it is.
        now = min(time.time(), self._clock + time.monotonic())
        left, freed = self._sent_oldest_first(), 0
        total = sum(size for _, size, _ in left)
        for modified, size, envelope_id in left:
            old = max_age_secs is not None and now - modified > max_age_secs
            short = freed < wanted or len(removed) * SENT_INODES < wanted_inodes
            if old or short or (max_bytes is not None and total > max_bytes):
                self.path("sent", envelope_id).unlink(missing_ok=True)
                (self.sent / f"{envelope_id}.json").unlink(missing_ok=True)
                removed.append(envelope_id)
                freed += size
            total -= size
        return removed

    def _sent_oldest_first(self) -> list[tuple[float, int, str]]:
        found = []
        with os.scandir(self.sent) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    archive = self.sent / f"{entry.name[:-5]}.zip"
                    with contextlib.suppress(FileNotFoundError):
                        delivered = entry.stat().st_mtime
                        found.append((delivered, archive.stat().st_size, entry.name[:-5]))
        return sorted(found)

    # -- steps -------------------------------------------------------------------------------

    def _move(self, state: State, ticket: Ticket) -> None:
        target = self.root / state / f"{ticket.id}.json"
        target.parent.mkdir(mode=0o700, exist_ok=True)  # it may have been deleted since the start
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
            write_all(descriptor, [data], 0)
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
