"""S1: one envelope being packed, and what is left of it after a crash.

Wanted: what was acknowledged is on the disk, whatever a write or a sync answers later.
Guaranteed: `end` is behind the last whole member, so that an append which failed is overwritten by
the next; `promised` is behind the last member that a commit covered. A file whose sync failed, or
which answered EIO, is `suspect`: it is never appended to or synced again, because Linux marks the
pages that it could not write as clean, and the next fdatasync(2) would answer success without them.
What was promised before is read back from the disk by recovery.py, into a fresh draft.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fastjmix.failpoints import reach
from fastjmix.spool import journal
from fastjmix.spool.files import Bytes, sync_directory, write_all
from fastjmix.spool.ticket import Ticket

if TYPE_CHECKING:
    from fastjmix.spool.states import Spool

ARCHIVE: Final = "envelope.zip"
SEALED: Final = "sealed.zip"
"""An archive in another form than the one that was built, complete: only it counts, once here."""
TICKET: Final = "ticket.json"
"""The ticket of that archive: durable before it."""
SUSPECT: Final = "suspect"
"""An empty file that says that a sync of the archive beside it failed."""


class Spill:
    """An instance larger than its lane: a file of its own beside the envelopes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, 0o600)
        self.size = 0

    def append(self, buffers: Sequence[Bytes]) -> None:
        """Appends bytes. Raises OSError (ENOSPC and its kin)."""
        self.size = write_all(self.descriptor, buffers, self.size)

    def drop(self) -> None:
        """Closes and removes the file."""
        with contextlib.suppress(OSError):  # nothing of it is wanted any more
            os.close(self.descriptor)
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


class Remade(Spill):
    """A draft's archive in another form, being written beside it. Of no worth before its seal."""

    def __init__(self, directory: Path) -> None:
        path = directory / f"{SEALED}.new"
        path.unlink(missing_ok=True)  # an earlier attempt's
        super().__init__(path)

    def overwrite(self, data: Bytes, offset: int) -> None:
        """Bytes whose place was kept. Raises OSError."""
        write_all(self.descriptor, [data], offset)


@dataclass(slots=True)
class Leftover:
    """A draft that nobody is writing: its directory and what draft.json says.

    `suspect`: its archive is read from the disk into a fresh one, never written again. `end`: what
    lies behind was answered with a failure; None where no process is left that knows.
    """

    id: str
    directory: Path
    recipe: Mapping[str, Any] = field(default_factory=dict)
    suspect: bool = False
    end: int | None = None

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
        spool: Spool,
        envelope_id: str,
        recipe: Mapping[str, Any],
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

    def append(self, buffers: Sequence[Bytes]) -> int:
        """Writes one member behind the last; returns its offset. Raises OSError."""
        start = self.end
        try:
            end = write_all(self.descriptor, buffers, start)
        except OSError as problem:
            self._judge(problem)
            raise
        self._take(start, end)
        return start

    def append_pieces(self, pieces: Iterator[bytes]) -> int:
        """The same, for a member that comes piece by piece; nothing of it if they raise."""
        start = offset = self.end
        for piece in pieces:
            try:
                offset = write_all(self.descriptor, [piece], offset)
            except OSError as problem:
                self._judge(problem)
                raise
        self._take(start, offset)
        return start

    def join(self, header: Bytes, spill: Spill) -> int:
        """Appends a header and a spilled instance as one member; returns its offset."""
        start = self.end
        try:
            offset = write_all(self.descriptor, [header], start)
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
        except OSError as problem:
            self._judge(problem)
            raise
        self._take(start, offset)
        return start

    def _take(self, start: int, end: int) -> None:
        self._records += journal.record(start, end)
        self.end = end

    def _judge(self, problem: OSError) -> None:
        """A full disk harms nothing that is there; EIO may have."""
        self.suspect = self.suspect or problem.errno == errno.EIO

    def commit(self) -> None:
        """Everything appended so far is durable, and promised, when this returns.

        The first commit also makes the names durable. Raises OSError; the draft is then suspect.
        """
        if self._durable:
            self._sync(names=not self._names_durable)
            self._names_durable = True
        self.promised = self.end
        self._journal_end = self._note(self._journal_end)

    def _sync(self, *, names: bool) -> None:
        """fdatasync(2), once more only if it never failed."""
        if self.suspect:
            raise OSError(errno.EIO, "an earlier sync of this envelope failed")
        self.suspect = True  # until the kernel says otherwise
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
        the draft, or already in outbox/.
        """
        try:
            size = write_all(self.descriptor, tail, self.end)
            reach("seal.written")
            os.ftruncate(self.descriptor, size)
            if self._durable:
                self._sync(names=False)
            reach("seal.synced")
            self.close()  # the last call that may tell of a failed write
            ticket = replace(ticket, size_bytes=size)
            self._spool.publish(self.archive, ticket, durable=self._durable)
            reach("seal.published")
        except OSError as problem:
            self._judge(problem)
            raise
        self._drop()
        reach("seal.removed")
        return ticket

    def remake(self) -> Remade:
        """A file for the archive in another form: fill it, then `seal_remade`. Raises OSError."""
        if self.suspect:
            raise OSError(errno.EIO, "an earlier sync of this envelope failed")
        return Remade(self.directory)

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
        self._spool.settle(remade.path, self.directory, ticket, durable=self._durable)
        with contextlib.suppress(OSError):
            self.close()
        self._spool.move_settled(self.directory, ticket, durable=self._durable)
        self._drop()
        reach("seal.removed")
        return ticket

    def abandon(self) -> None:
        """Deletes the draft. Only for one in which nothing was promised."""
        with contextlib.suppress(OSError):
            self.close()
        self._drop()

    def _drop(self) -> None:
        with contextlib.suppress(OSError):  # what stays is deleted at the next start
            self._spool.drop(Leftover(self.id, self.directory, self.recipe))

    def leave(self) -> Leftover:
        """Closes the file and leaves the draft to whoever recovers it."""
        with contextlib.suppress(OSError):
            self.close()
        if self.suspect:
            with contextlib.suppress(OSError):
                (self.directory / SUSPECT).touch(mode=0o600)
        return Leftover(self.id, self.directory, self.recipe, self.suspect, self.promised)

    def close(self) -> None:
        """Closes the files; the draft stays on disk. Raises OSError, closed nevertheless."""
        archive, promises = self.descriptor, self._journal
        self.descriptor = self._journal = -1
        if promises >= 0:
            with contextlib.suppress(OSError):
                os.close(promises)
        if archive >= 0:
            os.close(archive)
