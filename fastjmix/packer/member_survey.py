"""Finds which members of a leftover archive are whole, and which were acknowledged and are not.

Guaranteed: members are found by walking local file headers from the first byte, by their sizes.
Signatures are never searched for: an instance may carry a ZIP archive of its own. Each member is
verified by its CRC-32. The journal beside the archive (spool/journal.py) says which members were
acknowledged:

- A bad member at or behind the journal's last record, with no whole member behind it, was never
  acknowledged: it is no damage.
- A bad member before that, or one with a whole member behind it, is damage. The walk goes on at the
  journal's next offset.
- Without a journal the walk ends at the first local file header that is not whole.

Each step advances by a member at least, and no member is read more than twice.
Still wrong: without a journal, a damaged header with acknowledged members behind it looks like a
torn tail; both faults must meet for that. A power cut that wrote the second of two members before
the first, neither acknowledged, makes the first a damage.
"""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from typing import NamedTuple

from isal.isal_zlib import crc32

from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import Member, data_offset, member_at
from fastjmix.spool import Draft, Leftover, Promises
from fastjmix.spool.files import read_pieces


class Damage(NamedTuple):
    """Bytes of an archive that were acknowledged and cannot be verified."""

    start: int
    end: int
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name or 'a member'} at offset {self.start} to {self.end} {self.why}"


def end_of(member: Member) -> int:
    """Returns the offset behind a member."""
    return data_offset(member) + member.size


def damage_of(member: Member, why: str) -> Damage:
    """Returns the damage that all of a member is."""
    return Damage(member.offset, end_of(member), member.name.decode(errors="replace"), why)


class MemberSurvey:
    """The members of one archive: `members` are whole, `damages` were acknowledged and are not."""

    def __init__(self, draft: Draft, leftover: Leftover, promises: Promises) -> None:
        self._descriptor = draft.descriptor
        self._promised = promises.members
        promised = promises.end if leftover.end is None else leftover.end
        self._edges = sorted({*self._promised.keys(), *self._promised.values()})
        self._size = os.fstat(draft.descriptor).st_size
        if leftover.end is not None:
            self._size = min(self._size, leftover.end)
        self.members: list[Member] = []
        self.damages: list[Damage] = []
        offset = self._walk(promised)
        if offset < promised:
            why = "is missing: the file ends before it"
            self.damages.append(Damage(offset, promised, "", why))

    def _walk(self, promised: int) -> int:
        """Notes the members from the first byte on; returns the offset where it stopped."""
        offset = 0
        while offset < self._size:
            member = self._member_at(offset)
            if member is not None and member.name in profiles.DOCUMENTS:
                return offset  # the seal had begun: its documents are written anew
            why = self._fault_of(member)
            if member is not None and not why:
                self.members.append(member)
                offset = end_of(member)
                continue
            after = self._offset_after(offset, member, promised)
            if after is None:
                return offset
            name = member.name.decode(errors="replace") if member is not None else ""
            self.damages.append(Damage(offset, after, name, why))
            offset = after
        return offset

    def _offset_after(self, offset: int, member: Member | None, promised: int) -> int | None:
        """Returns where the walk goes on behind a bad member; None when it is a torn tail."""
        if offset < promised:
            ends = [self._promised.get(offset, promised)]
            if offset not in self._promised:
                at = bisect_right(self._edges, offset)
                ends += self._edges[at : at + 1]
                ends += [end_of(member)] if member is not None else []
            return min(end for end in ends if end > offset)
        while member is not None:  # never acknowledged: is a whole member behind it?
            following = self._member_at(end_of(member))
            if following is not None and not self._fault_of(following):
                return end_of(member)
            member = following
        return None

    def _member_at(self, offset: int) -> Member | None:
        return member_at(self._read_at, offset, self._size)

    def _read_at(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._descriptor, length, offset)
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            return b""

    def _fault_of(self, member: Member | None) -> str:
        """Returns why a member cannot be trusted; "" when it can. Raises OSError."""
        if member is None:
            return "has no local file header of ours"
        checksum = 0
        try:
            for piece in read_pieces(self._descriptor, data_offset(member), member.size):
                checksum = crc32(piece, checksum)
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            return "cannot be read from the disk"
        return "" if checksum == member.crc else "differs from its CRC-32"
