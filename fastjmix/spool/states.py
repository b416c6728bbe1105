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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fastjmix import log
from fastjmix.errors import StorageFull, storage_error
from fastjmix.spool import move, names, prepare
from fastjmix.spool.building import Building
from fastjmix.spool.directories import SEALED_STATES, State
from fastjmix.spool.files import sync_directory
from fastjmix.spool.reading import is_file, open_archive, open_regular
from fastjmix.spool.rename import rename_new
from fastjmix.spool.sweep import Sweep
from fastjmix.spool.ticket import Ticket


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


class Spool(Building):
    """The four directories under the storage path, and every step between them."""

    # -- start -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directories, takes the lock, and finishes what a crash left half-done.

        Raises SpoolError: a symbolic link, not writable, not ours, in memory, on several file
        systems, or another fastjmix is using it. Where something has only run out, `unproved` is
        true afterwards.
        """
        lacks = prepare.make_ready(self, self.claimed.claim)
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
        child.claimed = self.claimed
        child.unproved = self.unproved
        return child

    def release(self) -> None:
        """Gives the lock back."""
        self.claimed.release()

    def reclaim(self) -> None:
        """Makes the directories whole again where they, or all of the storage, were made anew, or
        could not be made at the start. Raises OSError, SpoolError.
        """
        if self.claimed.claimed or self.unproved:
            prepare.make_again(self, self.claimed.reclaim)

    def probe(self) -> None:
        """Everything that a promise needs of the disk, once, with a small file. Raises OSError."""
        prepare.probe(self)

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
                move.publish(self, coming, ticket, durable=self.durable)
            except OSError:
                if os.path.lexists(coming):
                    self.forget_ticket(ticket.id)
                raise
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # it is in outbox/
                rename_new(coming, temporary)
            raise

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

    def find(self, envelope_id: str) -> tuple[str, Path] | None:
        """Returns (state, path) of the file that has this id, in any state; None when nothing has
        it.

        In the direction in which envelopes move, so that one on its way is seen.
        """
        draft = self.building / envelope_id
        if os.path.lexists(draft):
            return "building", draft
        for state in SEALED_STATES:
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
            move.move(self, "sent", replace(ticket, receipt=receipt))
        except OSError as problem:
            full = isinstance(storage_error(problem), StorageFull)
            if not (full and is_file(self.path("outbox", envelope_id))):
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
        move.move(self, "rejected", replace(ticket, refusal=refusal))

    def withdraw(self, envelope_id: str) -> None:
        """Deletes an envelope in outbox/ that was never promised to anyone. Raises OSError."""
        self.path("outbox", envelope_id).unlink(missing_ok=True)
        (self.outbox / f"{envelope_id}.json").unlink(missing_ok=True)
        if self.durable:
            sync_directory(self.outbox)
