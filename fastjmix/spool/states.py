"""Moves envelopes between the four directories. The states are listed in __init__.py.

Wanted: each step is one rename, and the remains of a step that a crash cut off are finished or
undone.
Guaranteed: a record is durable before its archive moves. No rename replaces a file (rename.py). No
file that is not ours is opened, moved or deleted (names.py, reading.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from fastjmix import log
from fastjmix.errors import DamagedTicket, StorageFull, storage_error
from fastjmix.failpoints import reach
from fastjmix.spool import move, prepare
from fastjmix.spool import provenance as provenances
from fastjmix.spool.directories import SEALED_STATES, Directories, State
from fastjmix.spool.drafts import Drafts
from fastjmix.spool.files import sync_directory, write_again
from fastjmix.spool.outbox_listing import OutboxListing
from fastjmix.spool.provenance import Provenance
from fastjmix.spool.reading import is_file, open_archive, open_regular
from fastjmix.spool.rename import rename_new
from fastjmix.spool.sweep import Sweep
from fastjmix.spool.ticket import End, Ticket


class Spool(Directories):
    """The directories under the storage path, and every step between them.

    `drafts` are those in building/, `outbox_listing` lists what waits in outbox/.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, create: bool = True, patient_data: bool = True
    ) -> None:
        super().__init__(root, durable=durable, create=create, patient_data=patient_data)
        self.drafts = Drafts(self)
        self.outbox_listing = OutboxListing(self.outbox)

    # -- start -------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the directories, takes the lock, and ends the steps that a crash cut off.

        Raises SpoolError when the storage directory is a symbolic link, not writable, another
        user's, in memory, on several file systems, or used by another fastjmix. After a failure
        that may pass, such as a full disk, `unproved` is True.
        """
        lacks = prepare.make_ready(self, self.claimed.claim)
        self.unproved = lacks is not None
        if lacks is not None:
            log.get().error(
                "storage_unready",
                why=lacks.strerror or str(lacks),
                hint="nothing is taken until that has passed; what is here is delivered meanwhile",
            )
        Sweep(self, self.drafts).at_start()

    def take_over(self, owner: str) -> None:
        """Makes files in the name of the process `owner` from now on, and finishes or deletes the
        files of its predecessor."""
        self.owner = owner
        Sweep(self, self.drafts).after(owner)

    def inherited(self) -> Spool:
        """Returns a spool for a forked process, which shares the lock."""
        child = Spool(
            self.root,
            durable=self.durable,
            create=self.create,
            patient_data=self.patient_data,
        )
        child.claimed = self.claimed
        child.unproved = self.unproved
        return child

    def release(self) -> None:
        """Gives the lock back."""
        self.claimed.release()

    def reclaim(self) -> None:
        """Completes the directories where they, or all of the storage, were made anew, or could
        not be made at the start. Raises OSError, SpoolError."""
        if self.claimed.claimed or self.unproved:
            prepare.make_again(self, self.claimed.reclaim)

    def probe(self) -> None:
        """Writes, syncs, renames and reads back a small file. Raises OSError."""
        prepare.probe(self)

    # -- S2 ----------------------------------------------------------------------------------

    def new_upload(self) -> Path:
        """Returns a path in building/ for an archive that the API is receiving."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.upload"

    def admit(self, temporary: Path, ticket: Ticket, provenance: Provenance | None = None) -> bool:
        """Moves an archive that was received whole (see `new_upload`) to outbox/, its provenance
        before it. Returns False when that could not be written.

        Raises FileExistsError when its id is in any state, OSError. The archive is then where it
        was and outbox/ is unchanged, unless only a sync failed.
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
            kept = provenance is None or provenances.keep(self, ticket.id, lambda: provenance)
            try:
                move.publish(self, coming, ticket, durable=self.durable)
            except OSError:
                if os.path.lexists(coming):
                    provenances.remove(self, ticket.id)
                    self.remove_ticket(ticket.id)
                raise
        except BaseException:
            with contextlib.suppress(FileNotFoundError):  # it is in outbox/
                rename_new(coming, temporary)
            raise
        return kept

    def find(self, envelope_id: str) -> tuple[str, Path] | None:
        """Returns (state, path) of a file with this id in any state; None when there is none.

        Looks in the direction in which envelopes move, so that one that is being moved is found.
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

    def open_sealed(self, envelope_id: str) -> tuple[State, BinaryIO] | None:
        """Opens an archive in outbox/, sent/ or rejected/, and says in which; None when there is
        none. Raises OSError.

        The open file stays whole wherever the archive is moved.
        """
        # It may be moved meanwhile, and from rejected/ back to outbox/, too.
        states: tuple[State, ...] = ("sent", "outbox", "rejected", "sent", "outbox", "sent")
        problem: OSError | None = None
        for state in states:
            try:
                return state, open_archive(self.path(state, envelope_id))
            except FileNotFoundError:
                continue
            except OSError as found:
                problem = found
        if problem is not None:
            raise problem
        return None

    def deliver(
        self, envelope_id: str, receipt: Mapping[str, Any], ends: Mapping[str, End] | None = None
    ) -> None:
        """Moves S2 → S3, with the receipt beside it. Raises OSError, DamagedTicket.

        `ends` has the receipt of each upstream, where it went to several (ends.py).

        Where there is no space even for the receipt, the delivered envelope is deleted instead.
        """
        ticket = self.ticket("outbox", envelope_id)
        try:
            move.move(self, "sent", replace(ticket, receipt=receipt, ends=ends or {}))
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

    def reject(
        self, envelope_id: str, refusal: Mapping[str, Any], ends: Mapping[str, End] | None = None
    ) -> None:
        """Moves S2 → S4, with the refusal beside it. Raises OSError, DamagedTicket."""
        ticket = self.ticket("outbox", envelope_id)
        move.move(self, "rejected", replace(ticket, refusal=refusal, ends=ends or {}))

    def requeue(self, envelope_id: str, only: str | None = None) -> None:
        """Moves S4 → S2, without the refusal. The archive may be refused again.

        It goes to the upstreams that have not taken it, or to the `only` one of several, and then
        keeps the refusals of others. Raises KeyError when that one has not refused it,
        FileNotFoundError when it is not in rejected/ with its record, FileExistsError when its name
        is taken in outbox/, OSError, DamagedTicket. A crash in the middle undoes it, or leaves the
        refusal, which the next sweep deletes.
        """
        ticket = self.ticket("rejected", envelope_id)
        archive = self.path("rejected", envelope_id)
        archive.lstat()
        if (other := (ticket.refusal or {}).get("envelope", envelope_id)) != envelope_id:
            raise DamagedTicket(
                f"rejected/{envelope_id}.zip is a second archive of envelope {other}",
                "Look at both, and delete one by hand.",
            )
        move.publish(self, archive, ticket.requeued(only), durable=self.durable)
        reach("requeue.published")
        (self.rejected / f"{envelope_id}.json").unlink(missing_ok=True)
        if self.durable:
            sync_directory(self.rejected)

    def tag(self, envelope_id: str, tags: Sequence[str]) -> None:
        """Adds tags to the ticket of an envelope in outbox/. Raises OSError, DamagedTicket."""
        ticket = self.ticket("outbox", envelope_id)
        tagged = replace(ticket, tags=(*ticket.tags, *tags))
        path = self.outbox / f"{envelope_id}.json"
        write_again(path, tagged.dump(), self.owner, durable=self.durable)

    def withdraw(self, envelope_id: str) -> None:
        """Deletes an envelope in outbox/ that was never promised to anyone. Raises OSError."""
        self.path("outbox", envelope_id).unlink(missing_ok=True)
        provenances.remove(self, envelope_id)
        (self.outbox / f"{envelope_id}.json").unlink(missing_ok=True)
        if self.durable:
            sync_directory(self.outbox)
