"""Keeps building/<id>/promised: which members of the envelope beside it were acknowledged.

Wanted: after a crash, damage is distinguished from a torn tail, and recovery can go on behind a
member whose header is damaged.
Guaranteed: each member has one record of RECORD bytes with a checksum of its own: the offsets where
the member begins and where it ends. The records of a commit are written with one pwrite(2), after
the fdatasync(2) that made their members durable and before any status is sent. A record that is
torn or flipped is left out; the others keep their places. Notes follow the record: when the member
arrived and by which association; the facts of an association, with its first member; and, where the
data set is hard to read (deflated, or with its UIDs far behind), what its receiver found in it. An
instance whose bytes were there already has a note alone. A note is as long as some records, and a
reader that does not know it skips it as bad records.
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
from typing import Final, NamedTuple

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
"""The text is what the receiver found in the member."""

FROM_MARK: Final = b"from"
"""The text is an origin: when the member arrived, and by which association."""

AGAIN_MARK: Final = b"more"
"""The same, of an instance whose bytes are those of the member."""

PEER_MARK: Final = b"peer"
"""The text is the facts of an association (association_facts.py). Instead of an offset stands its
place among those of the journal."""

MARKS: Final = frozenset((NOTE_MARK, FROM_MARK, AGAIN_MARK, PEER_MARK))

NOTE_BYTES_MAX: Final = 512
"""Bytes of a note's text: a UID and a number have fewer than 90, an association's facts 512."""

END_MAX: Final = 1 << 60
"""An offset behind a member is smaller; eight bytes of text, which may be a peer's, are not."""

_origin = Struct("<qi")
_origin_noted = Struct("<QI4sqi")
_crc = Struct("<I")
_ORIGIN_PADDING: Final = bytes(-_origin.size % RECORD.size)

_noted = Struct("<QI4s")

READ_MAX: Final = 1 << 25
"""Bytes read of a journal: half a million members; 180,000 if each is hard to read. Members of
later records are found by the walk alone, and their origins are unknown."""


class Origin(NamedTuple):
    """Whence a member came: the place of its association among those of the journal, -1 for an
    unknown one, and Unix milliseconds, 0 for an unknown time. `facts` are those of an association
    that the journal does not have yet."""

    association: int
    arrived_ms: int
    facts: bytes = b""


UNKNOWN_ORIGIN: Final = Origin(-1, 0)


def record(start: int, end: int) -> bytes:
    """Returns the record of a member."""
    offsets = _offsets.pack(start, end)
    return offsets + crc32(offsets).to_bytes(4, "little")


def origin_note(start: int, origin: Origin, mark: bytes = FROM_MARK) -> bytes:
    """Returns the note of a member's origin, or of that of a repetition. It is `note`, in half the
    time."""
    checked = _origin_noted.pack(start, _origin.size, mark, origin[1], origin[0])
    return b"%b%b%b%b" % (checked[:16], _crc.pack(crc32(checked)), checked[16:], _ORIGIN_PADDING)


def note(start: int, text: bytes, mark: bytes = NOTE_MARK) -> bytes:
    """Returns the note of a member."""
    begin = _noted.pack(start, len(text), mark)
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

    def add(self, start: int, end: int, text: bytes = b"", origin: Origin | None = None) -> None:
        """Adds the record of a member, and its notes where there are any, for the next `write`."""
        self._pending += record(start, end)
        if text:
            self._pending += note(start, text)
        if origin is not None:
            self._add_origin(start, origin, FROM_MARK)

    def add_repetition(self, start: int, origin: Origin) -> None:
        """Adds the note of an instance whose bytes are those of the member at `start`."""
        self._add_origin(start, origin, AGAIN_MARK)

    def _add_origin(self, start: int, origin: Origin, mark: bytes) -> None:
        if origin[2]:
            self._pending += note(origin.association, origin.facts, PEER_MARK)
        self._pending += origin_note(start, origin, mark)

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

    `members`: the end of each member by its start. `notes`: what its receiver found in it, and
    `origins`: whence it came, both by its start. `repetitions`: whence its bytes came again.
    `associations`: the facts of each by its place.
    """

    members: dict[int, int] = field(default_factory=dict)
    notes: dict[int, bytes] = field(default_factory=dict)
    origins: dict[int, Origin] = field(default_factory=dict)
    repetitions: list[tuple[int, Origin]] = field(default_factory=list)
    associations: dict[int, bytes] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The offset behind the last member that is known to have been acknowledged."""
        return max(self.members.values(), default=0)

    def take(self, mark: bytes, start: int, text: bytes) -> None:
        """Takes a note."""
        if mark == NOTE_MARK:
            self.notes[start] = text
        elif mark == PEER_MARK:
            self.associations[start] = text
        elif len(text) == _origin.size:
            arrived_ms, association = _origin.unpack(text)
            origin = Origin(association, arrived_ms)
            if mark == FROM_MARK:
                self.origins[start] = origin
            else:
                self.repetitions.append((start, origin))


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
        whole = record(start, end) == data[at : at + RECORD.size]
        if whole and start < end < END_MAX:
            found.members[start] = end
        elif (noted := _note_at(data, at)) is not None:
            found.take(*noted)
            at += len(note(start, noted[2])) - RECORD.size
        at += RECORD.size
    return found


def _note_at(data: bytes, at: int) -> tuple[bytes, int, bytes] | None:
    """Returns mark, start and text of the note at an offset; None when there is none, or not all of
    it."""
    start, length, mark, _ = NOTE.unpack_from(data, at)
    if mark not in MARKS:
        return None
    text = data[at + NOTE.size : at + NOTE.size + min(length, NOTE_BYTES_MAX)]
    whole = len(text) == length > 0 and data.startswith(note(start, text, mark), at)
    return (mark, start, text) if whole else None
