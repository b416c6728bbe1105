"""Writes S1: one envelope being packed, and the remains of it after a crash.

Wanted: what was acknowledged is on the disk, whatever a write or a sync answers later.
Guaranteed: `end` is behind the last whole member, so that an append which failed is overwritten by
the next; `promised` is behind the last member that a commit covered. A file whose sync failed, or
which answered EIO, is `suspect`: it is never appended to or synced again, because Linux marks the
pages that it could not write as clean, and the next fdatasync(2) would answer success without them.
packer/recovery.py reads the instances that were promised before back from the disk, into a fresh
draft. A commit also sees that the archive is still where its path leads: what is in a file without
a name is not promised, and what was promised before is kept open (`Leftover.held`) until it is
saved (place.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastjmix._core import begin_writeback, finish_writeback
from fastjmix.errors import StorageFailed, StorageGone, raise_typed
from fastjmix.failpoints import reach
from fastjmix.spool import journal, move
from fastjmix.spool.directories import Directories
from fastjmix.spool.drop import drop
from fastjmix.spool.files import Bytes, read_pieces, sync_directory, write_all
from fastjmix.spool.linked import Held, identity, leads_to
from fastjmix.spool.names import ARCHIVE, SEALED, SUSPECT
from fastjmix.spool.recipe import UNKNOWN, Recipe
from fastjmix.spool.spill import JOIN_BYTES, Remade, Spill
from fastjmix.spool.ticket import Ticket


@dataclass(slots=True)
class Leftover:
    """A draft that nobody is writing: its directory and what draft.json says.

    `suspect`: its archive is read from the disk into a fresh one, never written again. `end`: what
    lies behind was answered with a failure; None where no process is left that knows. `held`: no
    path led to it when its packer left it; see place.save.
    """

    id: str
    directory: Path
    recipe: Recipe = UNKNOWN
    suspect: bool = False
    end: int | None = None
    held: Held | None = None

    @property
    def archive(self) -> Path:
        """Where the archive is, unless it had moved to outbox/."""
        return self.directory / ARCHIVE

    @property
    def sealed(self) -> Path:
        """Where its archive in another form is, if that is complete: see Draft.seal_remade."""
        return self.directory / SEALED

    @property
    def size(self) -> int:
        """Bytes of its archive; 0 when it is not here."""
        try:
            return self.archive.lstat().st_size
        except OSError:
            return 0

    def promises(self) -> journal.Promises:
        """What its journal says."""
        return journal.read(self.directory)


class Draft:
    """One envelope being packed, with one writer. `recipe` says how to finish it."""

    def __init__(
        self,
        spool: Directories,
        envelope_id: str,
        recipe: Recipe,
        descriptor: int,
        *,
        promises: int = -1,
        durable: bool,
    ) -> None:
        self._spool = spool
        self.id = envelope_id
        self.recipe = recipe
        self.directory = spool.building / envelope_id
        self.descriptor = descriptor
        self._identity = identity(descriptor)
        self._path = str(self.archive)
        self.end = 0
        self.promised = 0
        self.suspect = False
        self._durable = durable
        self._names_durable = False
        self._journal = promises
        self._journal_end = 0
        self._records = bytearray()

    @property
    def archive(self) -> Path:
        """Where the archive is while it is being built."""
        return self.directory / ARCHIVE

    def append(self, buffers: Sequence[Bytes], note: bytes = b"") -> int:
        """Writes one member behind the last; returns its offset. Raises OSError.

        `note` is what the journal keeps of it beside its place; see Leftover.promises.
        """
        start = self.end
        try:
            end = write_all(self.descriptor, buffers, start)
        except OSError as problem:
            self._note_failure(problem)
            raise_typed(problem)
        self._take(start, end, note)
        return start

    def append_pieces(self, pieces: Iterator[bytes], note: bytes = b"") -> int:
        """The same, for a member that comes piece by piece; nothing of it if they raise."""
        start = offset = self.end
        for piece in pieces:
            try:
                offset = write_all(self.descriptor, [piece], offset)
            except OSError as problem:
                self._note_failure(problem)
                raise_typed(problem)
        self._take(start, offset, note)
        return start

    def join(self, header: Bytes, spill: Spill, note: bytes = b"") -> int:
        """Appends a header and a spilled instance as one member; returns its offset."""
        start = self.end
        try:
            offset = write_all(self.descriptor, [header], start)
            reach("packer.joining")
            offset = self._join(spill, offset)
        except OSError as problem:
            self._note_failure(problem)
            if not self.suspect:
                with contextlib.suppress(OSError):  # it may be gigabytes that nobody was promised
                    os.ftruncate(self.descriptor, start)
            raise_typed(problem)
        self._take(start, offset, note)
        return start

    def _join(self, spill: Spill, offset: int) -> int:
        """Returns where it ends. A durable draft is synced here, and not by the commit alone."""
        pushed = offset
        for at in range(0, spill.size, JOIN_BYTES):
            length = min(JOIN_BYTES, spill.size - at)
            spill.move(at, length, self.descriptor, offset + at)
            if self._durable:
                begin_writeback(self.descriptor, offset + at, length)
                self._push(pushed, offset + at)
                pushed = offset + at
        if self._durable:
            self._sync(names=False)
        return offset + spill.size

    def _push(self, start: int, end: int) -> None:
        """Waits for the disk: two steps are under way at most, so that the sync of another file
        does not queue behind gigabytes. An error that is told here is not told by the sync."""
        if start == end:
            return
        self._doubt()
        finish_writeback(self.descriptor, start, end - start)
        self.suspect = False

    def _doubt(self) -> None:
        """Makes the draft suspect until the kernel says otherwise. Raises OSError when it is
        already.
        """
        if self.suspect:
            raise StorageFailed("an earlier sync of this envelope failed")
        self.suspect = True

    def _take(self, start: int, end: int, note: bytes) -> None:
        self._records += journal.record(start, end)
        if note:
            self._records += journal.note(start, note)
        self.end = end

    def _note_failure(self, problem: OSError) -> None:
        """Makes the file suspect after EIO. A full disk harms nothing that is there."""
        self.suspect = self.suspect or problem.errno == errno.EIO

    def commit(self) -> None:
        """Makes everything appended so far durable, and promises it, before this returns.

        The first commit also makes the names durable. Raises StorageError: then the draft is
        suspect, or no path leads to it any more (StorageGone).
        """
        try:
            if self._durable:
                self._sync(names=not self._names_durable)
                self._names_durable = True
            self._check_place()
        except OSError as problem:
            raise_typed(problem)
        self.promised = self.end
        self._journal_end = self._note(self._journal_end)

    def _check_place(self) -> None:
        """Compares the path with the file: one lstat(2), some 2 µs. Raises StorageGone when the
        path leads elsewhere, OSError.
        """
        if not leads_to(self._path, self._identity):
            raise StorageGone("the envelope is not in the storage directory any more")

    def _sync(self, *, names: bool) -> None:
        """fdatasync(2), once more only if it never failed."""
        self._doubt()
        os.fdatasync(self.descriptor)
        if names:
            sync_directory(self.directory)
            sync_directory(self._spool.building)
        self.suspect = False

    def _note(self, offset: int) -> int:
        """Writes what was promised since the last time. A hint: that it fails harms nobody."""
        records, self._records = self._records, bytearray()
        if self._journal < 0 or not records:
            return offset
        with contextlib.suppress(OSError):
            os.pwrite(self._journal, records, offset)
        return offset + len(records)

    def seal(self, tail: Sequence[Bytes], ticket: Ticket) -> Ticket:
        """Appends `tail` (documents and central directory), and moves the envelope to outbox/.

        Returns the ticket with its final size. Raises OSError; what was promised is then still in
        the draft, or in outbox/, or, where those have gone, in the descriptor that `leave` gives.
        """
        try:
            size = write_all(self.descriptor, tail, self.end)
            reach("seal.written")
            os.ftruncate(self.descriptor, size)
            if self._durable:
                self._sync(names=False)
            reach("seal.synced")
            self._check_place()
            self._close_written()
            ticket = replace(ticket, size_bytes=size)
            move.publish(self._spool, self.archive, ticket, durable=self._durable)
            reach("seal.published")
        except OSError as problem:
            self._note_failure(problem)
            raise_typed(problem)
        self._end()
        return ticket

    def _close_written(self) -> None:
        """Closes the archive: close(2) is the last call that may tell of a failed write. Raises
        OSError.

        The bytes stay readable, until it is known that they have arrived in outbox/.
        """
        self._close_journal()  # first: there may be no descriptor left
        written, self.descriptor = self.descriptor, os.dup(self.descriptor)
        os.close(written)

    def _end(self) -> None:
        """Ends the draft: its archive is in outbox/."""
        with contextlib.suppress(OSError):
            self.close()
        self._drop()
        reach("seal.removed")

    def remake(self) -> Remade:
        """A file for the archive in another form: fill it, then `seal_remade`. Raises OSError."""
        if self.suspect:
            raise StorageFailed("an earlier sync of this envelope failed")
        return Remade(self.directory, f"{SEALED}.new")

    def seal_remade(self, remade: Remade, ticket: Ticket) -> Ticket:
        """Moves the archive in its other form to outbox/; the one that was built is deleted.

        Returns the ticket with its final size. Raises OSError. Before the rename to SEALED the
        draft is as it was; after it only the other form counts, and a successor moves it on.
        """
        ticket = replace(ticket, size_bytes=remade.size)
        reach("encrypt.written")
        if self._durable:
            os.fdatasync(remade.descriptor)
        descriptor, remade.descriptor = remade.descriptor, -1
        os.close(descriptor)  # the last call that may tell of a failed write
        self._check_place()
        move.settle(self._spool, remade.path, self.directory, ticket, durable=self._durable)
        move.move_settled(self._spool, self.directory, ticket, durable=self._durable)
        self._end()
        return ticket

    def abandon(self) -> None:
        """Deletes the draft. Only for one in which nothing was promised."""
        with contextlib.suppress(OSError):
            self.close()
        self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # what stays is deleted at the next start
            drop(self._spool, self.directory)

    def leave(self) -> Leftover:
        """Closes the file and leaves the draft to whoever recovers it.

        It stays open, as `held`, if something in it was promised and its path leads elsewhere.
        """
        left = Leftover(self.id, self.directory, self.recipe, self.suspect, self.promised)
        if self.promised:
            left.held = self.hold()
        with contextlib.suppress(OSError):
            self.close()
        if self.suspect:
            with contextlib.suppress(OSError):
                (self.directory / SUSPECT).touch(mode=0o600)
        return left

    def hold(self) -> Held | None:
        """Gives its descriptors away when its path does not lead to it."""
        if self.descriptor < 0 or self.is_there():
            return None
        held = Held(self.descriptor, self._journal)
        self.descriptor = self._journal = -1
        return held

    def is_there(self) -> bool:
        """Tells whether its path leads to it."""
        try:
            return leads_to(self._path, self._identity)
        except OSError:  # nobody knows; rescue.save looks again
            return False

    def take_over(self, held: Held, end: int) -> None:
        """Copies `end` bytes that another draft promised, and its journal. Raises OSError."""
        for piece in read_pieces(held.archive, 0, end):
            self.end = write_all(self.descriptor, [piece], self.end)
        if self.end != end:
            raise StorageFailed("a file without a name is shorter than what was promised")
        if held.promises >= 0:
            self._records += os.pread(held.promises, journal.READ_MAX, 0)

    def close(self) -> None:
        """Closes the files; the draft stays on disk. Raises OSError, closed nevertheless."""
        self._close_journal()
        archive, self.descriptor = self.descriptor, -1
        if archive >= 0:
            os.close(archive)

    def _close_journal(self) -> None:
        promises, self._journal = self._journal, -1
        if promises >= 0:
            with contextlib.suppress(OSError):
                os.close(promises)
