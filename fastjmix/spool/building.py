"""Keeps S1: drafts in building/, those that are made and those that were left.

`leftover` reads a draft as a successor sees it; every other step is one rename, so that a process
that ends between two of them leaves something with a name that says what it is.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable
from pathlib import Path

from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import journal, move
from fastjmix.spool import recipe as recipes
from fastjmix.spool.directories import SEALED_STATES, Directories
from fastjmix.spool.draft import Draft, Leftover
from fastjmix.spool.drop import drop, remove_draft
from fastjmix.spool.files import sync_directory, write_all, write_new
from fastjmix.spool.names import ARCHIVE, SEALED, SUSPECT, TICKET
from fastjmix.spool.reading import is_directory, is_file, open_regular
from fastjmix.spool.recipe import Recipe
from fastjmix.spool.rename import rename_new, same_file
from fastjmix.spool.spill import Spill
from fastjmix.spool.ticket import Ticket


class Building(Directories):
    """building/, and what is done in it."""

    # -- new -----------------------------------------------------------------------------------

    def new_draft(self, recipe: Recipe, *, durable: bool | None = None) -> Draft:
        """A new envelope in building/. `recipe` tells a later process how to finish it.

        Raises OSError.
        """
        envelope_id = str(uuid.uuid4())
        keep = self.durable if durable is None else durable
        # Made under another name: whoever finds building/<id> finds it whole.
        unfinished = self.draft_name()
        opened: list[int] = []
        self.claimed.check()
        try:
            unfinished.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            write_new(unfinished / recipes.NAME, recipe.dump(), self.owner, durable=keep)
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

    def new_upload(self) -> Path:
        """A name in building/ for an archive that the API is receiving."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.upload"

    # -- left ----------------------------------------------------------------------------------

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
        if not is_id(envelope_id):
            return None
        with contextlib.suppress(OSError):
            if not is_directory(directory):
                return None
            for name in (ARCHIVE, SEALED, TICKET, journal.NAME):
                if os.path.lexists(directory / name) and not is_file(directory / name):
                    return None
            recipe = Recipe.read(directory)
            if recipe is not None:
                suspect = os.path.lexists(directory / SUSPECT)
                return Leftover(envelope_id, directory, recipe, suspect)
        return None

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
        move.move_settled(self, leftover.directory, ticket, durable=self.durable)
        with contextlib.suppress(OSError):  # a draft that stays is recovered, and found in outbox/
            self.drop(leftover)
        return ticket

    def _end_links(self, leftover: Leftover) -> None:
        """Ends renames that take two steps (renaming.py). A draft's archive that has its name in
        a later state, too, has been sealed, and is nobody's to write to."""
        for state in SEALED_STATES:
            path = self.path(state, leftover.id)
            for archive in (leftover.archive, leftover.sealed):
                with contextlib.suppress(FileNotFoundError):
                    if same_file(archive, path):
                        archive.unlink()

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
        """Deletes a draft that counts no more (drop.py). Raises OSError while it is there."""
        drop(self, leftover.directory, durable=durable)

    def discard(self, leftover: Leftover) -> None:
        """A draft in which nothing was promised, or whose archive is in outbox/. Raises OSError."""
        if not is_file(leftover.archive):
            if self.durable:
                sync_directory(self.outbox)  # the seal may have ended before it could do that
        elif not os.path.lexists(self.path("outbox", leftover.id)):
            self.forget_ticket(leftover.id)  # the seal had begun
        self.drop(leftover)

    def forget_ticket(self, envelope_id: str) -> None:
        """Deletes a ticket that no archive followed; what is none of ours stays."""
        with contextlib.suppress(FileNotFoundError, DamagedTicket):
            self.ticket("outbox", envelope_id)
            (self.outbox / f"{envelope_id}.json").unlink()

    def reject_draft(self, leftover: Leftover, why: str) -> None:
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
        ticket = leftover.recipe.ticket(
            leftover.id,
            size_bytes=file.lstat().st_size,
            sealed_at=time.time(),
            origin="recovery",
            refusal={"why": f"damaged: {why}"},
        )
        move.put(self, file, "rejected", ticket)
