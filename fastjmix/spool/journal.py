"""Keeps building/<id>/promised: which members of the envelope beside it were acknowledged.

Wanted: after a crash, damage is distinguished from a torn tail, and recovery can go on behind a
member whose header is damaged.
Guaranteed: each member has one record of RECORD bytes with a checksum of its own: the offsets where
the member begins and where it ends. The records of a commit are written with one pwrite(2), after
the fdatasync(2) that made their members durable and before any status is sent. A record that is
torn or flipped is left out; the others keep their places. Behind the record of a member whose data
set is hard to read (deflated, or with its UIDs far behind) is a note of what its receiver found in
it. A note is as long as some records, and a reader that knows no notes skips it as bad records.
Still wrong: the journal is a hint and is never synced. It survives the death of its process
exactly, and a power cut approximately: a member that it names is durable, but not every durable
member is named.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Final

from isal.isal_zlib import crc32

from fastjmix.spool.reading import read_small

NAME: Final = "promised"

RECORD: Final = Struct("<2QI")
"""Offset of a member's local file header, offset behind its data, CRC-32 of the two. A page of
zeros, which is what a power cut may leave, holds no record: the CRC-32 of zeros is not zero."""

_offsets = Struct("<2Q")

NOTE: Final = Struct("<QI4sI")
"""Start of a note, as long as a record: offset of the member's local file header, length of the
text that follows, NOTE_MARK, CRC-32 of these and the text."""

NOTE_MARK: Final = b"note"

NOTE_BYTES_MAX: Final = 512
"""Bytes of a note's text: a UID and a number have fewer than 90."""

_noted = Struct("<QI4s")

READ_MAX: Final = 1 << 25
"""Bytes read of a journal: more than a million and a half members; 250,000 if each has a note."""


def record(start: int, end: int) -> bytes:
    """Returns the record of a member."""
    offsets = _offsets.pack(start, end)
    return offsets + crc32(offsets).to_bytes(4, "little")


def note(start: int, text: bytes) -> bytes:
    """Returns the note of a member."""
    begin = _noted.pack(start, len(text), NOTE_MARK)
    padding = bytes(-len(text) % RECORD.size)
    return begin + crc32(begin + text).to_bytes(4, "little") + text + padding


class JournalWriter:
    """The journal of a draft that is being packed.

    `descriptor` is -1 for a draft whose journal is not written: one that is only read and sealed.
    """

    def __init__(self, descriptor: int = -1) -> None:
        self._descriptor = descriptor
        self._end = 0
        self._pending = bytearray()

    def add(self, start: int, end: int, text: bytes = b"") -> None:
        """Adds the record of a member, and its note where there is one, for the next `write`."""
        self._pending += record(start, end)
        if text:
            self._pending += note(start, text)

    def add_copy(self, descriptor: int) -> None:
        """Adds the records of another journal, of which `descriptor` is open. Raises OSError."""
        self._pending += os.pread(descriptor, READ_MAX, 0)

    def write(self) -> None:
        """Writes what was added since the last call. A failure is ignored: it is a hint."""
        records, self._pending = self._pending, bytearray()
        if self._descriptor < 0 or not records:
            return
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, records, self._end)
        self._end += len(records)

    def detach(self) -> int:
        """Returns the descriptor, which the caller then owns; -1 where there is none."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def close(self) -> None:
        """Closes the file."""
        if (descriptor := self.detach()) >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Promises:
    """The contents of a journal.

    `members`: the end of each member by its start. `notes`: the text of its note by its start.
    """

    members: dict[int, int] = field(default_factory=dict)
    notes: dict[int, bytes] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The offset behind the last member that is known to have been acknowledged."""
        return max(self.members.values(), default=0)


def read(directory: Path) -> Promises:
    """Returns the journal of a draft; an empty one where there is none, or it cannot be read."""
    try:
        data = read_small(directory / NAME, READ_MAX)
    except OSError:
        return Promises()
    found = Promises()
    at = 0
    while at + RECORD.size <= len(data):
        start, end, _ = RECORD.unpack_from(data, at)
        if record(start, end) == data[at : at + RECORD.size] and start < end:
            found.members[start] = end
        elif text := _note_at(data, at):
            found.notes[start] = text
            at += len(note(start, text)) - RECORD.size
        at += RECORD.size
    return found


def _note_at(data: bytes, at: int) -> bytes:
    """Returns the text of the note at an offset; empty when there is none, or not all of it."""
    start, length, mark, _ = NOTE.unpack_from(data, at)
    text = data[at + NOTE.size : at + NOTE.size + min(length, NOTE_BYTES_MAX)]
    whole = mark == NOTE_MARK and len(text) == length
    return text if whole and data.startswith(note(start, text), at) else b""
