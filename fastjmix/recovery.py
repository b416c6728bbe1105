"""What a crash or a failed sync left in building/ becomes an envelope, or nothing.

Wanted: every instance that was acknowledged is in an envelope; no half of one is.
Guaranteed: members are found by walking local file headers from the first byte, by their sizes
(never by searching for signatures: an instance may carry a ZIP of its own), and each is verified by
its CRC-32. The journal beside the archive (spool/journal.py) says which were acknowledged:

- A bad member at or behind its last record, with nothing whole behind it, was never acknowledged:
  it is cut, silently.
- A bad member before that, or one with a whole member behind it, is damage: it is logged as an
  error, counted, its bytes are kept in rejected/ with its offset and its name, and the journal's
  next offset is where the walk goes on. The rest is copied, verified, into a fresh draft.
- A suspect archive (a sync of it failed) is copied in the same way, and never written again.
- Without a journal the walk ends at the first local file header that is not whole.

A healthy archive is sealed where it is, under its id, and if the seal had begun, to the same bytes.
Digests are computed again from the bytes.
Still wrong: without a journal, a damaged header with acknowledged members behind it cannot be told
from a torn tail; both faults must meet for that. And a power cut that wrote the second of two
members before the first, neither acknowledged, raises an alarm for the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from isal.isal_zlib import crc32

from fastjmix.dicom.dataset import describe_head, read_file_meta
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.heads import data_set_head
from fastjmix.jmix import profiles
from fastjmix.jmix.archive import Member, data_offset, local_header, member_at
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.envelope import Contents
from fastjmix.sealing import seal
from fastjmix.spool import Draft, Leftover, Spool, Ticket
from fastjmix.spool.files import PIECE_BYTES, read_pieces

META_BYTES: Final = 4096
"""File Meta Information is at most 1 KB: it fitted in a lane's control block."""

TOLD: Final = 20
"""Damaged members that the record in rejected/ names one by one; the log names all."""


class Damage(NamedTuple):
    """Bytes of an archive that were acknowledged and cannot be verified."""

    start: int
    end: int
    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name or 'a member'} at offset {self.start} to {self.end} {self.why}"


@dataclass(slots=True)
class Outcome:
    """What became of a leftover. `fresh`: its verified members are there, to be recovered next."""

    ticket: Ticket | None = None
    damages: list[Damage] = field(default_factory=list)
    fresh: Leftover | None = None


def recover(spool: Spool, leftover: Leftover, origin: str) -> Outcome:
    """Seals a leftover draft, or deletes it when nothing in it was promised. Raises OSError."""
    if leftover.recipe.get("ack") == "stored" and (ticket := spool.finish(leftover)) is not None:
        reach("recovery.sealed")
        return Outcome(ticket)
    if leftover.recipe.get("ack") != "stored" or not leftover.archive.exists():
        spool.discard(leftover)
        return Outcome()
    if (spool.building / str(leftover.recipe.get("replaces", "-"))).is_dir():
        spool.discard(leftover)  # a copy that was not finished: its original counts
        return Outcome()
    draft = spool.reopen(leftover)
    try:
        found = _Survey(draft, leftover)
        reach("recovery.walked")
        if leftover.suspect or found.damages:
            return _copy_out(spool, draft, leftover, found)
        if not found.members:
            draft.abandon()
            return Outcome()
        ticket = _seal_in_place(spool, draft, found.members, origin)
        reach("recovery.sealed")
        return Outcome(ticket)
    finally:
        draft.leave()
        leftover.suspect = leftover.suspect or draft.suspect


def _seal_in_place(spool: Spool, draft: Draft, members: list[Member], origin: str) -> Ticket:
    reading = _Reading(draft)
    for member in members:
        reading.take(member, reading.digest(member))
    draft.end = data_offset(members[-1]) + members[-1].size
    sealed_at = None
    with contextlib.suppress(OSError, DamagedTicket):
        sealed_at = spool.ticket("outbox", draft.id).sealed_at
    return seal(draft, reading.contents, members, origin, sealed_at)


def _copy_out(spool: Spool, draft: Draft, leftover: Leftover, found: _Survey) -> Outcome:
    """What is whole goes to a fresh draft, what is damaged to rejected/, and the old one away."""
    fresh = None
    if found.members:
        fresh = spool.new_draft({**leftover.recipe, "replaces": leftover.id}, durable=spool.durable)
    try:
        if fresh is not None:
            _copy(draft, found.members, fresh)
            fresh.commit()
        if found.damages:
            told = [str(damage) for damage in found.damages[:TOLD]]
            more = len(found.damages) - len(told)
            why = "; ".join(told) + (f"; and {more} more" if more else "")
            pieces = (p for d in found.damages for p in _raw(draft, d.start, d.end))
            spool.keep_damaged(leftover, pieces, why)
        spool.drop(leftover, durable=True)
    except BaseException:
        if fresh is not None:
            fresh.abandon()
        raise
    return Outcome(damages=found.damages, fresh=fresh.leave() if fresh is not None else None)


def _copy(source: Draft, members: list[Member], target: Draft) -> None:
    """Members in their order, numbered anew. Raises OSError."""
    reading = _Reading(source)
    for member in members:
        name = reading.take(member, None)
        target.append_pieces(_verified(source, member, local_header(name, member.crc, member.size)))


def _verified(source: Draft, member: Member, header: bytes) -> Iterator[bytes]:
    yield header
    checksum = 0
    for block in read_pieces(source.descriptor, data_offset(member), member.size):
        checksum = crc32(block, checksum)
        yield block
    if checksum != member.crc:
        raise OSError(errno.EIO, "a member that was read whole reads differently now")


def _raw(draft: Draft, start: int, end: int) -> Iterator[bytes]:
    """Damaged bytes for a person; zeros for those that cannot be read at all."""
    for at in range(start, end, PIECE_BYTES):
        length = min(PIECE_BYTES, end - at)
        try:
            yield os.pread(draft.descriptor, length, at)
        except OSError:
            yield bytes(length)


class _Survey:
    """Which members of an archive are whole, and which were acknowledged and are not."""

    def __init__(self, draft: Draft, leftover: Leftover) -> None:
        self._draft = draft
        self._promises = leftover.promises()
        promised = self._promises.end if leftover.end is None else leftover.end
        self._size = os.fstat(draft.descriptor).st_size
        if leftover.end is not None:
            self._size = min(self._size, leftover.end)
        self.members: list[Member] = []
        self.damages: list[Damage] = []
        offset = self._walk(0, promised)
        if offset < promised:
            self._damage(offset, promised, None, "is missing: the file ends before it")

    def _walk(self, offset: int, promised: int) -> int:
        """Takes what is there; returns where it stopped."""
        while offset < self._size:
            member = self._member_at(offset)
            if member is not None and _is_document(member):
                return offset  # the seal had begun: it is made anew
            why = self._fault_of(member)
            if member is not None and not why:
                self.members.append(member)
                offset = _end_of(member)
                continue
            after = self._after(offset, member, promised)
            if after is None:
                return offset
            self._damage(offset, after, member, why)
            offset = after
        return offset

    def _damage(self, start: int, end: int, member: Member | None, why: str) -> None:
        name = member.name.decode(errors="replace") if member is not None else ""
        self.damages.append(Damage(start, end, name, why))

    def _after(self, offset: int, member: Member | None, promised: int) -> int | None:
        """Where the walk goes on behind a bad member; None when it is a torn tail."""
        if offset < promised:
            ends = [self._promises.members.get(offset, promised)]
            if offset not in self._promises.members:
                ends += [edge for edge in self._edges() if offset < edge < promised]
                ends += [_end_of(member)] if member is not None else []
            return min(ends)
        while member is not None:  # nothing promised that: is anything whole behind it?
            after = _end_of(member)
            following = self._member_at(after)
            if following is not None and not self._fault_of(following):
                return _end_of(member)
            member = following
        return None

    def _edges(self) -> Iterator[int]:
        yield from self._promises.members.keys()
        yield from self._promises.members.values()

    def _member_at(self, offset: int) -> Member | None:
        return member_at(self._read_at, offset, self._size)

    def _read_at(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._draft.descriptor, length, offset)
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            return b""

    def _fault_of(self, member: Member | None) -> str:
        """Why a member cannot be trusted; empty when it can. Raises OSError."""
        if member is None:
            return "has no local file header of ours"
        checksum = 0
        try:
            for block in read_pieces(self._draft.descriptor, data_offset(member), member.size):
                checksum = crc32(block, checksum)
        except OSError as problem:
            if problem.errno != errno.EIO:
                raise
            return "cannot be read from the disk"
        return "" if checksum == member.crc else "differs from its CRC-32"


def _end_of(member: Member) -> int:
    return data_offset(member) + member.size


def _is_document(member: Member) -> bool:
    return member.name in profiles.DOCUMENTS


class _Reading:
    """The contents of an envelope, read back from its members."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._recipe = draft.recipe
        self.contents = Contents(profiles.get(draft.recipe["profile"]).member_name)

    def take(self, member: Member, digest: bytes | None) -> bytes:
        """One whole member: what it is comes from its own bytes. Returns the name it gets."""
        start = data_offset(member)
        first = os.pread(self._draft.descriptor, META_BYTES, start)
        meta, length = read_file_meta(first)
        syntax = meta["transfer_syntax_uid"]
        head, head_bytes = data_set_head(
            self._read_at, start + length, member.size - length, syntax
        )
        return self.contents.add(
            head.study_instance_uid.decode(),
            head.series_instance_uid.decode(),
            meta["sop_class_uid"],
            meta["sop_instance_uid"],
            syntax,
            head.instance_number,
            member.size,
            digest,
            lambda: describe_head(head_bytes, syntax),
        ).name

    def _read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._draft.descriptor, length, offset)

    def digest(self, member: Member) -> bytes | None:
        """As the recipe wants it. Raises OSError."""
        if self._recipe["skip_hashing"]:
            return None
        hasher = new_hash(self._recipe["digest"])
        for block in read_pieces(self._draft.descriptor, data_offset(member), member.size):
            hasher.update(block)
        return hasher.digest()
