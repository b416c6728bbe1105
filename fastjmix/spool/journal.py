"""building/<id>/promised: which members of the envelope beside it were acknowledged.

Wanted: after a crash, tell damage from a torn tail, and step over a member whose header is damaged.
Guaranteed: one record a member, RECORD bytes long and with a checksum of its own: where the member
begins and where it ends. The records of a commit are written with one pwrite(2), after the
fdatasync(2) that made their members durable and before anyone is told. A record that is torn or
flipped is left out; the others stand where they always stood.
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

READ_MAX: Final = 1 << 25
"""Bytes read of a journal: more than a million and a half members."""


def record(start: int, end: int) -> bytes:
    """What is written of one member."""
    place = _place.pack(start, end)
    return place + crc32(place).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Promises:
    """What a journal says: `members` maps where one begins to where it ends."""

    members: dict[int, int] = field(default_factory=dict)

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
    found = {}
    for at in range(0, len(data) - RECORD.size + 1, RECORD.size):
        start, end, _ = RECORD.unpack_from(data, at)
        if record(start, end) == data[at : at + RECORD.size] and start < end:
            found[start] = end
    return Promises(found)
