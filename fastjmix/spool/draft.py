"""Writes S1: one envelope being packed, and its remains after a crash.

Wanted: an acknowledged instance is on the disk, whatever a later write or sync answers.
Guaranteed: `end` is the offset behind the last whole member, so that an append that failed is
overwritten by the next; `promised` is the offset behind the last member that a commit covered. A
file whose sync failed, or which answered EIO, is `suspect`: it is never appended to or synced
again. Linux marks the pages that it could not write as clean, and the next fdatasync(2) would
succeed without them. packer/recovery.py reads the instances that were promised before back from the
disk, into a fresh draft. A commit also checks that the archive's path still leads to the archive:
instances in a file without a name are not promised. If earlier ones were, the file is kept open
(`Leftover.held`) until they are saved (rescue.py).

Raises StorageError where an error of a system call would say that the storage failed (errors.py).
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
    """A draft that no process is writing: its directory and its recipe.

    `suspect`: its archive is copied from the disk into a fresh one, never written again. `end`: the
    instances behind this offset were answered with a failure; None after a crash. `held`: the open
    files of a draft to which no path led when its packer left it; see rescue.save.
    """

    id: str
    directory: Path
    recipe: Recipe = UNKNOWN
    suspect: bool = False
    end: int | None = None
    held: Held | None = None

    @property
    def archive(self) -> Path:
        """The archive's path, unless it is in outbox/."""
        return self.directory / ARCHIVE

    @property
    def sealed(self) -> Path:
        """The path of the archive in another form, if that is complete; see Draft.seal_remade."""
        return self.directory / SEALED

    @property
    def size(self) -> int:
        """The bytes of the archive; 0 when it is not here."""
        try:
            return self.archive.lstat().st_size
        except OSError:
            return 0

    def promises(self) -> journal.Promises:
        """Returns what the journal holds."""
        return journal.read(self.directory)


class Draft:
    """One envelope being packed, with one writer. `recipe` says how to finish it.

    The class is large because what may be acknowledged depends on `end`, `promised` and `suspect`
    together, and each of its steps changes one of them.
    """

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
        self._journal = journal.JournalWriter(promises)

    @property
    def archive(self) -> Path:
        """The archive's path while it is being built."""
        return self.directory / ARCHIVE

    def append(
        self, buffers: Sequence[Bytes], note: bytes = b"", origin: journal.Origin | None = None
    ) -> int:
        """Writes one member behind the last; returns its offset. Raises StorageError.

        The journal keeps `note` and `origin` beside the member's offsets; see Leftover.promises.
        """
        start = self.end
        try:
            end = write_all(self.descriptor, buffers, start)
        except OSError as problem:
            self._note_failure(problem)
            raise_typed(problem)
        self._take(start, end, note, origin)
        return start

    def repeat(self, start: int, origin: journal.Origin) -> None:
        """Notes that the bytes of the member at `start` came again; the next commit covers that."""
        self._journal.add_repetition(start, origin)

    def append_pieces(
        self, pieces: Iterator[bytes], note: bytes = b"", origin: journal.Origin | None = None
    ) -> int:
        """Appends a member that comes in pieces; nothing of it stays if the iterator raises."""
        start = offset = self.end
        for piece in pieces:
            try:
                offset = write_all(self.descriptor, [piece], offset)
            except OSError as problem:
                self._note_failure(problem)
                raise_typed(problem)
        self._take(start, offset, note, origin)
        return start

    def join(
        self,
        header: Bytes,
        spill: Spill,
        note: bytes = b"",
        origin: journal.Origin | None = None,
    ) -> int:
        """Appends a header and a spilled instance as one member; returns its offset."""
        start = self.end
        try:
            offset = write_all(self.descriptor, [header], start)
            reach("packer.joining")
            offset = self._join(spill, offset)
        except OSError as problem:
            self._note_failure(problem)
            if not self.suspect:
                with contextlib.suppress(OSError):  # gigabytes, in which nothing was promised
                    os.ftruncate(self.descriptor, start)
            raise_typed(problem)
        self._take(start, offset, note, origin)
        return start

    def _join(self, spill: Spill, offset: int) -> int:
        """Returns the offset behind the spill. Syncs a durable draft before its commit."""
        pushed = offset
        for at in range(0, spill.size, JOIN_BYTES):
            length = min(JOIN_BYTES, spill.size - at)
            spill.move(at, length, self.descriptor, offset + at)
            if self._durable:
                begin_writeback(self.descriptor, offset + at, length)
                self._await_writeback(pushed, offset + at)
                pushed = offset + at
        if self._durable:
            self._sync(names=False)
        return offset + spill.size

    def _await_writeback(self, start: int, end: int) -> None:
        """Waits for the disk: at most two steps are under way, so that the sync of another file
        does not queue behind gigabytes. The sync does not repeat an error that is raised here."""
        if start == end:
            return
        self._suspect_until_synced()
        finish_writeback(self.descriptor, start, end - start)
        self.suspect = False

    def _suspect_until_synced(self) -> None:
        """Makes the draft suspect until the kernel reports success. Raises StorageFailed when it is
        suspect already."""
        if self.suspect:
            raise StorageFailed("an earlier sync of this envelope failed")
        self.suspect = True

    def _take(self, start: int, end: int, note: bytes, origin: journal.Origin | None) -> None:
        self._journal.add(start, end, note, origin)
        self.end = end

    def _note_failure(self, problem: OSError) -> None:
        """Makes the file suspect after EIO. A full disk harms nothing that is there."""
        self.suspect = self.suspect or problem.errno == errno.EIO

    def commit(self) -> None:
        """Makes everything that was appended so far durable, and promises it.

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
        self._journal.write()

    def _check_place(self) -> None:
        """Compares the path with the file: one lstat(2), some 2 µs. Raises StorageGone when the
        path leads elsewhere, OSError.
        """
        if not leads_to(self._path, self._identity):
            raise StorageGone("the envelope is not in the storage directory any more")

    def _sync(self, *, names: bool) -> None:
        """Calls fdatasync(2), but never again after a failure."""
        self._suspect_until_synced()
        os.fdatasync(self.descriptor)
        if names:
            sync_directory(self.directory)
            sync_directory(self._spool.building)
        self.suspect = False

    def seal(self, tail: Sequence[Bytes], ticket: Ticket) -> Ticket:
        """Appends `tail` (documents and central directory), and moves the envelope to outbox/.

        Returns the ticket with its final size. Raises StorageError: then the promised instances are
        still in the draft, or in outbox/, or, where those are gone, in the files that `leave`
        returns.
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
        """Closes the archive: close(2) is the last call that may report a failed write. Raises
        OSError.

        A duplicate of the descriptor keeps the bytes readable until they are in outbox/.
        """
        self._journal.close()  # first: there may be no descriptor left
        written, self.descriptor = self.descriptor, os.dup(self.descriptor)
        os.close(written)

    def _end(self) -> None:
        """Ends the draft: its archive is in outbox/."""
        with contextlib.suppress(OSError):
            self.close()
        self._drop()
        reach("seal.removed")

    def remake(self) -> Remade:
        """Returns a file for the archive in another form: fill it, then call `seal_remade`. Raises
        OSError."""
        if self.suspect:
            raise StorageFailed("an earlier sync of this envelope failed")
        return Remade(self.directory, f"{SEALED}.new")

    def seal_remade(self, remade: Remade, ticket: Ticket) -> Ticket:
        """Moves the archive in its other form to outbox/, and deletes the one that was built.

        Returns the ticket with its final size. Raises OSError. Before the rename to SEALED the
        draft is as it was; after it only the other form counts, and a successor moves that.
        """
        ticket = replace(ticket, size_bytes=remade.size)
        reach("encrypt.written")
        if self._durable:
            os.fdatasync(remade.descriptor)
        descriptor, remade.descriptor = remade.descriptor, -1
        os.close(descriptor)  # the last call that may report a failed write
        self._check_place()
        move.settle(self._spool, remade.path, self.directory, ticket, durable=self._durable)
        move.move_settled(self._spool, self.directory, ticket, durable=self._durable)
        self._end()
        return ticket

    def abandon(self) -> None:
        """Deletes a draft in which nothing was promised."""
        with contextlib.suppress(OSError):
            self.close()
        self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # the next start deletes the remains
            drop(self._spool, self.directory)

    def leave(self) -> Leftover:
        """Closes the files and returns the draft, to be recovered.

        The files stay open, as `held`, if something was promised and the path leads elsewhere.
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
        """Returns the open files, and no longer owns them, when the path does not lead to them."""
        if self.descriptor < 0 or self.is_there():
            return None
        archive, self.descriptor = self.descriptor, -1
        return Held(archive, self._journal.detach())

    def is_there(self) -> bool:
        """Returns whether the path leads to the open archive."""
        try:
            return leads_to(self._path, self._identity)
        except OSError:  # it may; rescue.save looks again
            return False

    def take_over(self, held: Held, end: int) -> None:
        """Copies the first `end` bytes of another draft, and its journal. Raises OSError."""
        for piece in read_pieces(held.archive, 0, end):
            self.end = write_all(self.descriptor, [piece], self.end)
        if self.end != end:
            raise StorageFailed("a file without a name is shorter than what was promised")
        if held.promises >= 0:
            self._journal.add_copy(held.promises)

    def close(self) -> None:
        """Closes the files; the draft stays on disk. Raises OSError after closing them."""
        self._journal.close()
        archive, self.descriptor = self.descriptor, -1
        if archive >= 0:
            os.close(archive)
