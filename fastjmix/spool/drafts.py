"""Keeps S1: the drafts in building/, those being made and those left by an earlier process.

Guaranteed: each step is one rename. A process that ends between two steps leaves a name that says
what the remains are.
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
from fastjmix.spool import journal, move, provenance
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


class Drafts:
    """The drafts of one spool."""

    def __init__(self, spool: Directories) -> None:
        self._spool = spool

    # -- new -----------------------------------------------------------------------------------

    def new(self, recipe: Recipe, *, durable: bool | None = None) -> Draft:
        """Makes a draft. `durable=None`: as durable as the spool. Raises OSError."""
        spool = self._spool
        envelope_id = str(uuid.uuid4())
        durable = spool.durable if durable is None else durable
        # Made under another name, so that building/<id> is whole from its first moment.
        unfinished = spool.draft_name()
        opened: list[int] = []
        spool.claimed.check()
        try:
            unfinished.mkdir(mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            write_new(unfinished / recipes.NAME, recipe.dump(), spool.owner, durable=durable)
            opened.extend(
                os.open(unfinished / name, flags, 0o600) for name in (ARCHIVE, journal.NAME)
            )
            rename_new(unfinished, spool.building / envelope_id)
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            with contextlib.suppress(OSError):  # the successor deletes the remains
                remove_draft(unfinished)
            raise
        archive, promises = opened
        return Draft(spool, envelope_id, recipe, archive, promises=promises, durable=durable)

    def new_spill(self, owner: str) -> Spill:
        """Makes a file in building/ for an instance larger than its lane. Raises OSError."""
        return Spill(self._spool.building / f"{owner}-{uuid.uuid4()}.spill")

    # -- left ----------------------------------------------------------------------------------

    def leftovers(self) -> list[Leftover]:
        """Returns the drafts that an earlier process left, oldest first. Raises OSError."""
        found = []
        for directory in self._spool.building.iterdir():
            leftover = self.leftover(directory.name)
            if leftover is not None:
                with contextlib.suppress(FileNotFoundError):  # another packer sealed it just now
                    found.append((directory.stat().st_mtime_ns, leftover))
        return [leftover for _, leftover in sorted(found, key=lambda one: one[0])]

    def leftover(self, envelope_id: str) -> Leftover | None:
        """Returns a draft as its successor sees it; None when it is not there, or is not ours."""
        directory = self._spool.building / envelope_id
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

    def reopen(self, leftover: Leftover) -> Draft:
        """Opens a leftover to be read and sealed. Raises OSError.

        First drops its clean pages from the page cache: after a failed sync they may hold bytes
        that the disk never got. Pages that were not yet written stay, as they must.
        """
        descriptor = open_regular(leftover.archive, os.O_RDWR)
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        durable = self._spool.durable
        return Draft(self._spool, leftover.id, leftover.recipe, descriptor, durable=durable)

    def finish(self, leftover: Leftover) -> Ticket | None:
        """Moves a leftover to outbox/ if its archive is complete in another form; else None.

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
        durable = self._spool.durable
        move.move_settled(self._spool, leftover.directory, ticket, durable=durable)
        with contextlib.suppress(OSError):  # a draft that stays is recovered, and found in outbox/
            self.drop(leftover)
        return ticket

    def _end_links(self, leftover: Leftover) -> None:
        """Ends renames that take two steps (rename.py).

        An archive that has a name in a later state, too, is sealed: the draft loses its name.
        """
        for state in SEALED_STATES:
            path = self._spool.path(state, leftover.id)
            for archive in (leftover.archive, leftover.sealed):
                with contextlib.suppress(FileNotFoundError):
                    if same_file(archive, path):
                        archive.unlink()

    # -- away ----------------------------------------------------------------------------------

    def drop(self, leftover: Leftover, *, durable: bool = False) -> None:
        """Deletes a draft that no longer counts (drop.py). Raises OSError while it is there."""
        drop(self._spool, leftover.directory, durable=durable)

    def discard(self, leftover: Leftover) -> None:
        """Deletes a draft in which nothing was promised, or whose archive is in outbox/.

        Raises OSError.
        """
        spool = self._spool
        if not is_file(leftover.archive):
            if spool.durable:
                sync_directory(spool.outbox)  # the seal may have ended before it could do that
        elif not os.path.lexists(spool.path("outbox", leftover.id)):
            provenance.remove(spool, leftover.id)  # the seal had begun
            spool.remove_ticket(leftover.id)
        self.drop(leftover)

    def reject(self, leftover: Leftover, why: str) -> None:
        """Moves S1 → S4: a draft that cannot be sealed is kept for a person. Raises OSError."""
        sealed = leftover.sealed
        self._keep(leftover, sealed if is_file(sealed) else leftover.archive, why)
        self.drop(leftover)

    def keep_damaged(self, leftover: Leftover, pieces: Iterable[bytes], why: str) -> None:
        """Keeps damaged bytes of a draft in S4, under the draft's id. Raises OSError.

        The draft itself stays where it is. A repetition keeps the same bytes once.
        """
        kept = leftover.directory / f"{self._spool.owner}-{uuid.uuid4()}.new"
        try:
            descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                end = 0
                for piece in pieces:
                    end = write_all(descriptor, [piece], end)
                if self._spool.durable:
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
            studies=(leftover.recipe.study,) if leftover.recipe.study else (),
            refusal={"why": f"damaged: {why}"},
        )
        move.put(self._spool, file, "rejected", ticket)
