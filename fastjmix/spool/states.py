"""Holds the four directories and the steps between them. The states are listed in __init__.py.

Wanted: each step is one rename, and whatever a crash leaves of a step is finished or undone.
Guaranteed: a record is durable before the archive that it is about moves; no rename replaces
(renaming.py); nothing is opened, moved or deleted that is not ours (names.py, reading.py).
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import orjson

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.spool import journal, moving, names, preparing
from fastjmix.spool import recipe as recipes
from fastjmix.spool.draft import ARCHIVE, SEALED, SUSPECT, TICKET, Draft, Leftover
from fastjmix.spool.files import FULL, rename_synced, sync_directory, write_all, write_new
from fastjmix.spool.reading import is_directory, is_file, open_archive, open_regular
from fastjmix.spool.renaming import rename_new, same_file
from fastjmix.spool.root import Root
from fastjmix.spool.spill import Spill
from fastjmix.spool.sweeping import Sweep, remove_draft
from fastjmix.spool.ticket import Ticket

State = Literal["outbox", "sent", "rejected"]

SUPERVISOR: Final = "supervisor"
"""Owner of the names of a process that has taken over from nobody."""


def _sealed_at(entry: os.DirEntry[str]) -> tuple[float, str] | None:
    """When an archive was sealed, and its id; None for another file, or one that has left."""
    found = names.sealed(entry.name)
    if found is None or found[1] != "zip" or not entry.is_file(follow_symlinks=False):
        return None
    with contextlib.suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_mtime, found[0]
    return None


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """True for what has a name of ours and is a regular file, or has just left."""
    ours = names.sealed(entry.name) or names.unfinished(entry.name)
    return ours is not None and (
        entry.is_file(follow_symlinks=False) or not os.path.lexists(entry.path)
    )


class Spool:
    """The four directories under the storage path.

    `durable=False` (durability = "page-cache") leaves out every fsync. `create=False`: `root` is
    never made. `unproved`: something had run out when it was prepared (preparing.py).
    """

    def __init__(self, root: Path, *, durable: bool = True, create: bool = True) -> None:
        self.root = root
        self.durable = durable
        self.create = create
        self.building = root / "building"
        self.outbox = root / "outbox"
        self.sent = root / "sent"
        self.rejected = root / "rejected"
        self._claimed = Root(root)
        self.owner = SUPERVISOR
        self.unproved = False

    # -- start -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directories, takes the lock, and finishes what a crash left half-done.

        Raises SpoolError: a symbolic link, not writable, not ours, in memory, on several file
        systems, or another fastjmix is using it. Where something has only run out, `unproved` is
        true afterwards.
        """
        lacks = preparing.make_ready(self, self._claimed.claim)
        self.unproved = lacks is not None
        if lacks is not None:
            log.get().error(
                "storage_unready",
                why=lacks.strerror or str(lacks),
                hint="nothing is taken until that has passed; what is here is delivered meanwhile",
            )
        Sweep(self).at_start()

    def take_over(self, owner: str) -> None:
        """Takes over: from now on files are made here in the name of `owner`, a process. Files
        that a former one of that name left are finished or deleted."""
        self.owner = owner
        Sweep(self).after(owner)

    def inherited(self) -> Spool:
        """Does the same for a forked process, which has a part in the lock."""
        child = Spool(self.root, durable=self.durable, create=self.create)
        child._claimed = self._claimed
        child.unproved = self.unproved
        return child

    def release(self) -> None:
        """Gives the lock back."""
        self._claimed.release()

    def reclaim(self) -> None:
        """Makes the directories whole again where they, or all of the storage, were made anew, or
        could not be made at the start. Raises OSError, SpoolError.
        """
        if self._claimed.claimed or self.unproved:
            preparing.make_again(self, self._claimed.reclaim)

    def probe(self) -> None:
        """Everything that a promise needs of the disk, once, with a small file. Raises OSError."""
        preparing.probe(self)

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
        """Returns a draft as a successor sees it; None when there is no readable one of ours."""
        directory = self.building / envelope_id
        if not names.is_id(envelope_id):
            return None
        with contextlib.suppress(OSError):
            if not is_directory(directory):
                return None
            for name in (ARCHIVE, SEALED, TICKET, journal.NAME):
                if os.path.lexists(directory / name) and not is_file(directory / name):
                    return None
            recipe = recipes.read(directory)
            if recipe is not None:
                suspect = os.path.lexists(directory / SUSPECT)
                return Leftover(envelope_id, directory, recipe, suspect)
        return None

    def set_aside(self, leftover: Leftover, why: str) -> None:
        """A draft that cannot be sealed: S1 → S4, for a person. Raises OSError."""
        sealed = leftover.sealed
        self._keep(leftover, sealed if is_file(sealed) else leftover.archive, why)
        self.drop(leftover)

    def keep_damaged(self, leftover: Leftover, pieces: Iterable[bytes], why: str) -> None:
        """Bytes of a draft that could not be verified → S4, under the draft's id. Raises OSError.

        The draft itself stays where it is; doing this again keeps the same bytes once.
        """
        kept = leftover.directory / f"{self.owner}-{uuid.uuid4()}.new"
        try:
            descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                end = 0
                for piece in pieces:
                    end = write_all(descriptor, [piece], end)
                if self.durable:
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
            self._keep(leftover, kept, why)
        finally:
            kept.unlink(missing_ok=True)

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
            file.lstat().st_size,
            time.time(),
            "recovery",
            refusal={"why": f"damaged: {why}"},
        )
        moving.put(self, file, "rejected", ticket)

    def reopen(self, leftover: Leftover) -> Draft:
        """The draft of a leftover, to be read and sealed. Raises OSError.

        What the page cache holds of it is dropped first: after a failed sync it may be what the
        disk never got. (Pages that were not yet written stay, as they must.)
        """
        descriptor = open_regular(leftover.archive, os.O_RDWR)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return Draft(self, leftover.id, leftover.recipe, descriptor, durable=self.durable)

    def drop(self, leftover: Leftover, *, durable: bool = False) -> None:
        """Deletes a draft that counts no more. Raises OSError while it looks as if it did.

        One rename decides: a `.draft` is swept by a successor. So who dies between two of its files
        leaves nothing that stays until the next start; and of two drafts with the same promises
        (`durable`, for a copy that is) one is recovered.
        """
        gone = self._unfinished()
        rename_new(leftover.directory, gone)
        if durable and self.durable:
            try:
                sync_directory(self.building)
            except OSError:
                rename_new(gone, leftover.directory)  # it counts as before
                raise
        try:
            reach("spool.dropping")
        finally:
            with contextlib.suppress(OSError):  # what stays is deleted by a successor
                remove_draft(gone)

    def discard(self, leftover: Leftover) -> None:
        """A draft in which nothing was promised, or whose archive is in outbox/. Raises OSError."""
        if not is_file(leftover.archive):
            if self.durable:
                sync_directory(self.outbox)  # the seal may have ended before it could do that
        elif not os.path.lexists(self.path("outbox", leftover.id)):
            self._forget_ticket(leftover.id)  # the seal had begun
        self.drop(leftover)

    def _forget_ticket(self, envelope_id: str) -> None:
        """Deletes a ticket that no archive followed; what is none of ours stays."""
        with contextlib.suppress(FileNotFoundError, DamagedTicket):
            self.ticket("outbox", envelope_id)
            (self.outbox / f"{envelope_id}.json").unlink()

    # -- S1 ----------------------------------------------------------------------------------

    def new_draft(self, recipe: Mapping[str, Any], *, durable: bool | None = None) -> Draft:
        """A new envelope in building/. `recipe` tells a later process how to finish it.

        Raises OSError.
        """
        envelope_id = str(uuid.uuid4())
        keep = self.durable if durable is None else durable
        # Made under another name: whoever finds building/<id> finds it whole.
        unfinished = self._unfinished()
        opened: list[int] = []
        self._claimed.check()
        try:
            unfinished.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            write_new(unfinished / recipes.NAME, orjson.dumps(recipe), self.owner, durable=keep)
            opened.extend(
                os.open(unfinished / name, flags, 0o600) for name in (ARCHIVE, journal.NAME)
            )
            rename_new(unfinished, self.building / envelope_id)
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            with contextlib.suppress(OSError):  # what stays is deleted by a successor
                remove_draft(unfinished)
            raise
        archive, promises = opened
        return Draft(self, envelope_id, recipe, archive, promises=promises, durable=keep)

    def new_spill(self, owner: str) -> Spill:
        """A file in building/ for an instance larger than its lane. Raises OSError."""
        return Spill(self.building / f"{owner}-{uuid.uuid4()}.spill")

    def _unfinished(self) -> Path:
        """Returns where a draft is before it counts, and after it counts no more: see
        `take_over`."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.draft"

    def new_upload(self) -> Path:
        """A name in building/ for an archive that the API is receiving."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.upload"

    def admit(self, temporary: Path, ticket: Ticket) -> None:
        """Moves an archive received whole (see `new_upload`) to outbox/.

        Raises FileExistsError when its id is here in any state, OSError. Nothing of it is then in
        outbox/, and the archive is where it was, unless only a sync failed.
        """
        if self.durable:
            descriptor = open_regular(temporary)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        # Its id is in building/ before its ticket is alone in outbox/: see Sweep.
        coming = self.building / f"{self.owner}-{ticket.id}.upload"
        rename_new(temporary, coming)
        try:
            if (found := self.find(ticket.id)) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(found[1]))
            try:
                moving.publish(self, coming, ticket, durable=self.durable)
            except OSError:
                if os.path.lexists(coming):
                    self._forget_ticket(ticket.id)
                raise
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # it is in outbox/
                rename_new(coming, temporary)
            raise

    def publish(self, archive: Path, ticket: Ticket, *, durable: bool) -> None:
        """Moves S1 → S2. Raises FileExistsError when something else is in its place, OSError."""
        moving.publish(self, archive, ticket, durable=durable)

    def settle(self, archive: Path, directory: Path, ticket: Ticket, *, durable: bool) -> None:
        """An archive in another form, written and synced, becomes the one that counts in its draft.

        Raises OSError.
        """
        (directory / TICKET).unlink(missing_ok=True)  # an earlier attempt's, without its archive
        write_new(directory / TICKET, ticket.dump(), self.owner, durable=durable)
        rename_synced(archive, directory / SEALED, durable=durable)
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
        self._end_links(leftover)
        if not is_file(leftover.sealed):
            return None
        try:
            ticket = Ticket.read(leftover.directory / TICKET, leftover.id)
        except (FileNotFoundError, DamagedTicket):
            if not is_file(leftover.archive):
                raise
            leftover.sealed.unlink()  # it is made anew from the acknowledged bytes
            return None
        self.move_settled(leftover.directory, ticket, durable=self.durable)
        with contextlib.suppress(OSError):  # a draft that stays is recovered, and found in outbox/
            self.drop(leftover)
        return ticket

    def _end_links(self, leftover: Leftover) -> None:
        """Ends renames that take two steps (renaming.py). A draft's archive that has its name in
        a later state, too, has been sealed, and is nobody's to write to."""
        states: tuple[State, ...] = ("outbox", "sent", "rejected")
        for state in states:
            path = self.path(state, leftover.id)
            for archive in (leftover.archive, leftover.sealed):
                with contextlib.suppress(FileNotFoundError):
                    if same_file(archive, path):
                        archive.unlink()

    # -- S2 and on ---------------------------------------------------------------------------

    def waiting(
        self,
        known: Callable[[str], bool] | None = None,
        foreign: Callable[[str], object] | None = None,
    ) -> list[str]:
        """Ids in outbox/, oldest first; without those that are `known`. Raises OSError.

        `foreign` hears of each name there that is not ours.
        """
        new = []
        with os.scandir(self.outbox) as entries:
            for entry in entries:
                ours = names.sealed(entry.name)
                if ours is not None and ours[1] == "zip" and known is not None and known(ours[0]):
                    continue
                if (one := _sealed_at(entry)) is not None:
                    new.append(one)
                elif foreign is not None and not _is_ours(entry):
                    foreign(entry.name)
        return [name for _, name in sorted(new)]

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
        """Raises FileNotFoundError, DamagedTicket, OSError."""
        return Ticket.read(self.root / state / f"{envelope_id}.json", envelope_id)

    def find(self, envelope_id: str) -> tuple[str, Path] | None:
        """Returns (state, path) of the file that has this id, in any state; None when nothing has
        it.

        In the direction in which envelopes move, so that one on its way is seen.
        """
        draft = self.building / envelope_id
        if os.path.lexists(draft):
            return "building", draft
        states: tuple[State, ...] = ("outbox", "sent", "rejected")
        for state in states:
            archive = self.path(state, envelope_id)
            for path in (archive, archive.with_suffix(".json")):
                if os.path.lexists(path):
                    return state, path
        return None

    def open_served(self, envelope_id: str) -> BinaryIO | None:
        """Opens the archive of an envelope that may be served: it stays whole however it is moved.

        None when there is none in outbox/ or sent/. Raises OSError.
        """
        states: tuple[State, ...] = ("sent", "outbox", "sent")  # it may move while we look
        problem: OSError | None = None
        for state in states:
            try:
                return open_archive(self.path(state, envelope_id))
            except FileNotFoundError:
                continue
            except OSError as found:
                problem = found
        if problem is not None:
            raise problem
        return None

    def deliver(self, envelope_id: str, receipt: Mapping[str, Any]) -> None:
        """Moves S2 → S3, with the receipt beside it. Raises OSError, DamagedTicket.

        Where there is no room even for the receipt, the envelope is the one that makes some.
        """
        ticket = self.ticket("outbox", envelope_id)
        try:
            moving.move(self, "sent", replace(ticket, receipt=receipt))
        except OSError as problem:
            if problem.errno not in FULL or not is_file(self.path("outbox", envelope_id)):
                raise
            self.withdraw(envelope_id)
            log.get().warning(
                "copy_not_kept",
                envelope=envelope_id,
                why=problem.strerror,
                status=receipt.get("status"),
                remote_id=receipt.get("remote_id"),
            )

    def reject(self, envelope_id: str, refusal: Mapping[str, Any]) -> None:
        """Moves S2 → S4, with the reason kept beside it. Raises OSError, DamagedTicket."""
        ticket = self.ticket("outbox", envelope_id)
        moving.move(self, "rejected", replace(ticket, refusal=refusal))

    def withdraw(self, envelope_id: str) -> None:
        """Deletes an envelope in outbox/ that was never promised to anyone. Raises OSError."""
        self.path("outbox", envelope_id).unlink(missing_ok=True)
        (self.outbox / f"{envelope_id}.json").unlink(missing_ok=True)
        if self.durable:
            sync_directory(self.outbox)
