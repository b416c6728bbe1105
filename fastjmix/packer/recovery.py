"""Turns the remains of a crash or a failed sync in building/ into an envelope, or nothing.

Wanted: every instance that was acknowledged is in an envelope; no half of one is.
Guaranteed: members are found by walking local file headers from the first byte, by their sizes
(never by searching for signatures: an instance may carry a ZIP of its own), and each is verified by
its CRC-32. The journal beside the archive (spool/journal.py) says which were acknowledged:

- A bad member at or behind its last record, with nothing whole behind it, was never acknowledged:
  it is cut, silently.
- A bad member before that, or one with a whole member behind it, is damage: it is logged as an
  error, counted, its bytes are kept in rejected/ with its offset and its name, and the journal's
  next offset is where the walk goes on. The rest is copied, verified, into a fresh draft.
- A member that is whole, and whose head nothing explains (instances.py), is kept there likewise.
- A suspect archive (a sync of it failed) is copied in the same way, and never written again.
- Without a journal the walk ends at the first local file header that is not whole.

A healthy archive is sealed where it is, under its id, and if the seal had begun, to the same bytes.
Digests are computed again from the bytes. Memory does not grow with an instance, nor with any
element of one: of a data set the head is held, and pieces while they are compared.
Still wrong: without a journal, a damaged header with acknowledged members behind it cannot be told
from a torn tail; both faults must meet for that. And a power cut that wrote the second of two
members before the first, neither acknowledged, raises an alarm for the first.
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from isal.isal_zlib import crc32

from fastjmix.dicom.dataset import describe_series
from fastjmix.errors import DamagedTicket, MemberDamaged, StorageGone
from fastjmix.failpoints import reach
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import Member, data_offset, local_header, member_at
from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.packer.instances import facts_of
from fastjmix.packer.seal import seal
from fastjmix.spool import Draft, Leftover, Promises, Spool, Ticket, save
from fastjmix.spool.files import PIECE_BYTES, read_pieces

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
    if leftover.held is not None:  # no path led to it
        return Outcome(fresh=save(spool, leftover))
    if not leftover.directory.exists():
        if leftover.recipe.ack == "stored" and not _is_sealed(spool, leftover):
            raise StorageGone("the draft is not in building/ now", errno.ENOENT)
        return Outcome()  # its seal failed behind its end
    if leftover.recipe.ack == "stored" and (ticket := spool.finish(leftover)) is not None:
        reach("recovery.sealed")
        return Outcome(ticket)
    if leftover.recipe.ack != "stored" or not leftover.archive.exists():
        spool.discard(leftover)
        return Outcome()
    replaced = leftover.recipe.replaces
    if replaced is not None and spool.leftover(replaced) is not None:
        spool.discard(leftover)  # a copy that was not finished: its original counts
        return Outcome()
    draft = spool.reopen(leftover)
    try:
        promises = leftover.promises()
        found = _Survey(draft, leftover, promises)
        reading = _Reading(draft, promises, found)
        reach("recovery.walked")
        if leftover.suspect or found.damages or reading.renamed:
            return _copy_out(spool, draft, leftover, found, reading)
        if not reading.taken:
            draft.abandon()
            return Outcome()
        ticket = _seal_in_place(spool, draft, reading, origin)
        reach("recovery.sealed")
        return Outcome(ticket)
    except OSError:
        leftover.held = draft.hold()
        raise
    finally:
        draft.leave()
        leftover.suspect = leftover.suspect or draft.suspect


def _is_sealed(spool: Spool, leftover: Leftover) -> bool:
    found = spool.find(leftover.id)
    return found is not None and found[0] != "building"


def _seal_in_place(spool: Spool, draft: Draft, reading: _Reading, origin: str) -> Ticket:
    for member, instance in reading.taken:
        instance.digest = reading.digest(member)
    members = [member for member, _ in reading.taken]
    draft.end = _end_of(members[-1])
    sealed_at = None
    with contextlib.suppress(OSError, DamagedTicket):
        sealed_at = spool.ticket("outbox", draft.id).sealed_at
    return seal(draft, reading.contents, members, origin, sealed_at)


def _copy_out(
    spool: Spool, draft: Draft, leftover: Leftover, found: _Survey, reading: _Reading
) -> Outcome:
    """What is whole goes to a fresh draft, what is damaged to rejected/, and the old one away."""
    fresh = None
    if reading.taken:
        copy = replace(leftover.recipe, replaces=leftover.id)
        fresh = spool.new_draft(copy, durable=spool.durable)
    try:
        if fresh is not None:
            reading.copy(fresh)
            fresh.commit()
        if found.damages:
            told = [str(damage) for damage in found.damages[:TOLD]]
            more = len(found.damages) - len(told)
            why = "; ".join(told) + (f"; and {more} more" if more else "")
            pieces = (p for d in found.damages for p in _raw(draft, d.start, d.end))
            spool.keep_damaged(leftover, pieces, why)
        spool.drop(leftover, durable=True)
    except BaseException:
        if fresh is not None and leftover.directory.exists():
            fresh.abandon()
        raise
    return Outcome(damages=found.damages, fresh=fresh.leave() if fresh is not None else None)


def _verified(source: Draft, member: Member, header: bytes) -> Iterator[bytes]:
    yield header
    checksum = 0
    for block in read_pieces(source.descriptor, data_offset(member), member.size):
        checksum = crc32(block, checksum)
        yield block
    if checksum != member.crc:
        raise MemberDamaged("a member that was read whole reads differently now")


def _raw(draft: Draft, start: int, end: int) -> Iterator[bytes]:
    """Damaged bytes for a person; zeros for those that cannot be read at all."""
    end = min(end, os.fstat(draft.descriptor).st_size)  # a journal may promise more than is there
    for at in range(start, end, PIECE_BYTES):
        length = min(PIECE_BYTES, end - at)
        try:
            yield os.pread(draft.descriptor, length, at)
        except OSError:
            yield bytes(length)


class _Survey:
    """Finds which members of an archive are whole, and which were acknowledged and are not.

    Each step goes on by a member at least, and no member is read more than twice.
    """

    def __init__(self, draft: Draft, leftover: Leftover, promises: Promises) -> None:
        self._draft = draft
        self._promised = promises.members
        promised = promises.end if leftover.end is None else leftover.end
        self._edges = sorted({*self._promised.keys(), *self._promised.values()})
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
            ends = [self._promised.get(offset, promised)]
            if offset not in self._promised:
                at = bisect_right(self._edges, offset)
                ends += self._edges[at : at + 1]
                ends += [_end_of(member)] if member is not None else []
            return min(end for end in ends if end > offset)
        while member is not None:  # nothing promised that: is anything whole behind it?
            following = self._member_at(_end_of(member))
            if following is not None and not self._fault_of(following):
                return _end_of(member)
            member = following
        return None

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
    """Reads the contents of an envelope back from the members that are whole.

    A member that cannot be understood becomes a damage of `found`.
    """

    def __init__(self, draft: Draft, promises: Promises, found: _Survey) -> None:
        self._draft = draft
        self._recipe = draft.recipe
        self._notes = promises.notes
        self.contents = Contents(profiles.get(draft.recipe.profile).member_name)
        self.taken: list[tuple[Member, Instance]] = []
        for member in found.members:
            try:
                self.taken.append((member, self._take(member)))
            except (OSError, MemoryError):
                raise
            except Exception as problem:  # whatever it is: the others are not to suffer for it
                why = f"cannot be understood: {problem}"
                name = member.name.decode(errors="replace")
                found.damages.append(Damage(member.offset, _end_of(member), name, why))
        found.damages.sort()

    @property
    def renamed(self) -> bool:
        """Tells whether a member bears another name than the one that it gets now."""
        return any(member.name != instance.name for member, instance in self.taken)

    def _take(self, member: Member) -> Instance:
        note = self._notes.get(member.offset, b"")
        facts = facts_of(self._read_at, member, self._recipe, note)
        return self.contents.add(
            facts.study_instance_uid,
            facts.series_instance_uid,
            facts.sop_class_uid,
            facts.sop_instance_uid,
            facts.transfer_syntax_uid,
            facts.instance_number,
            member.size,
            None,
            describe_series(facts.elements),
            fault=facts.fault,
        )

    def _read_at(self, offset: int, length: int) -> bytes:
        return os.pread(self._draft.descriptor, length, offset)

    def copy(self, target: Draft) -> None:
        """Members in their order, by the names that they get, with their notes. Raises OSError."""
        for member, instance in self.taken:
            header = local_header(instance.name, member.crc, member.size)
            note = self._notes.get(member.offset, b"")
            target.append_pieces(_verified(self._draft, member, header), note)

    def digest(self, member: Member) -> bytes | None:
        """As the recipe wants it. Raises OSError."""
        if self._recipe.skip_hashing:
            return None
        hasher = new_hash(self._recipe.digest)
        for block in read_pieces(self._draft.descriptor, data_offset(member), member.size):
            hasher.update(block)
        return hasher.digest()
