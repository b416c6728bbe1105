"""Keeps building/<id>/promised: which members of the envelope beside it were acknowledged.

Wanted: after a crash, tell damage from a torn tail, and step over a member whose header is damaged.
Guaranteed: one record a member, RECORD bytes long and with a checksum of its own: where the member
begins and where it ends. The records of a commit are written with one pwrite(2), after the
fdatasync(2) that made their members durable and before anyone is told. A record that is torn or
flipped is left out; the others stand where they always stood. Behind the record of a member whose
data set is hard to read (deflated, or with its UIDs far behind) stands a note of what its receiver
found in it: as long as some records, and none to a reader that knows no notes.
Still wrong: it is never synced, for it is a hint. It survives the death of its process exactly, and
a power cut approximately: what it promises is durable, but not everything durable is in it.
"""

from __future__ import annotations

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

_place = Struct("<2Q")

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
    """What is written of one member."""
    place = _place.pack(start, end)
    return place + crc32(place).to_bytes(4, "little")


def note(start: int, text: bytes) -> bytes:
    """Returns the bytes of a note about a member."""
    begin = _noted.pack(start, len(text), NOTE_MARK)
    padding = bytes(-len(text) % RECORD.size)
    return begin + crc32(begin + text).to_bytes(4, "little") + text + padding


@dataclass(frozen=True, slots=True)
class Promises:
    """Contents of a journal. `members`: where one begins and where it ends; `notes`: its note."""

    members: dict[int, int] = field(default_factory=dict)
    notes: dict[int, bytes] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """The watermark: behind the last member that is known to have been acknowledged."""
        return max(self.members.values(), default=0)


def read(directory: Path) -> Promises:
    """The journal of a draft; no promises where there is none, or none that can be read."""
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
