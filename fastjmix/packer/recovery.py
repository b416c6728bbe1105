"""Turns the remains of a crash or a failed sync in building/ into an envelope, or nothing.

Wanted: every instance that was acknowledged is in an envelope; no part of another one is.
Guaranteed: the archive's members are verified (member_survey.py). A tail that was never
acknowledged is cut without a word. Damage is logged as an error and counted; its bytes are kept in
rejected/, with its offset and its name. The rest is copied, verified, into a fresh draft. Two more
kinds of draft are handled in the same way: one with a whole member whose head cannot be read
(instances.py), which counts as damage, and one whose archive is suspect since a sync of it failed,
for that archive is never written again.

A healthy archive is sealed where it is, under its id; if its seal had begun, to the same bytes.
Digests are computed again from the bytes. Memory does not grow with an instance, nor with any
element of one: the head of a data set is held, and pieces while they are compared.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from isal.isal_zlib import crc32

from fastjmix.dicom.dataset import describe_series
from fastjmix.errors import DamagedTicket, MemberDamaged, StorageGone
from fastjmix.failpoints import reach
from fastjmix.jmix.digests import new_hash
from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import Member, data_offset, local_header
from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.packer.instances import facts_of
from fastjmix.packer.member_survey import Damage, MemberSurvey, damage_of, end_of
from fastjmix.packer.origins import Origins
from fastjmix.packer.seal import seal
from fastjmix.spool import Draft, Leftover, Promises, Spool, Ticket, save
from fastjmix.spool.files import PIECE_BYTES, read_pieces

NAMED_MAX: Final = 20
"""Damaged members that the record in rejected/ names one by one; the log names all."""


@dataclass(slots=True)
class Outcome:
    """The result of a recovery. `fresh`: the draft with the verified members, to be recovered next;
    `ticket`: of the envelope that is sealed. Neither: nothing had been promised. `unwritten`: its
    provenance could not be written."""

    ticket: Ticket | None = None
    damages: list[Damage] = field(default_factory=list)
    fresh: Leftover | None = None
    unwritten: bool = False


def recover(spool: Spool, leftover: Leftover, origin: str) -> Outcome:
    """Seals a leftover draft, or deletes it when nothing in it was promised. Raises OSError."""
    if leftover.held is not None:  # no path leads to it
        return Outcome(fresh=save(spool, leftover))
    stored = leftover.recipe.ack == "stored"
    if not leftover.directory.exists():
        if stored and not _is_sealed(spool, leftover):
            raise StorageGone("the draft is not in building/ now", errno.ENOENT)
        return Outcome()  # its seal failed after its last rename
    if stored and (ticket := spool.drafts.finish(leftover)) is not None:
        reach("recovery.sealed")
        return Outcome(ticket)
    if not stored or not leftover.archive.exists() or _is_unfinished_copy(spool, leftover):
        spool.drafts.discard(leftover)
        return Outcome()
    draft = spool.drafts.reopen(leftover)
    try:
        return _recover_archive(spool, draft, leftover, origin)
    except OSError:
        leftover.held = draft.hold()
        raise
    finally:
        draft.leave()
        leftover.suspect = leftover.suspect or draft.suspect


def _is_sealed(spool: Spool, leftover: Leftover) -> bool:
    found = spool.find(leftover.id)
    return found is not None and found[0] != "building"


def _is_unfinished_copy(spool: Spool, leftover: Leftover) -> bool:
    """Returns True while the original of a copy is there: only the original counts."""
    original = leftover.recipe.replaces
    return original is not None and spool.drafts.leftover(original) is not None


def _recover_archive(spool: Spool, draft: Draft, leftover: Leftover, origin: str) -> Outcome:
    promises = leftover.promises()
    survey = MemberSurvey(draft, leftover, promises)
    contents = _ReadContents(draft, promises, survey)
    reach("recovery.walked")
    if leftover.suspect or survey.damages or contents.renamed:
        return _copy_out(spool, draft, leftover, survey, contents)
    if not contents.taken:
        draft.abandon()
        return Outcome()
    ticket = _seal_in_place(spool, draft, contents, origin)
    reach("recovery.sealed")
    return Outcome(ticket, unwritten=contents.origins.unwritten)


def _seal_in_place(spool: Spool, draft: Draft, contents: _ReadContents, origin: str) -> Ticket:
    for member, instance in contents.taken:
        instance.digest = contents.digest(member)
    members = [member for member, _ in contents.taken]
    draft.end = end_of(members[-1])
    sealed_at = None
    with contextlib.suppress(OSError, DamagedTicket):
        sealed_at = spool.ticket("outbox", draft.id).sealed_at
    return seal(spool, draft, contents.contents, members, contents.origins, origin, sealed_at)


def _copy_out(
    spool: Spool, draft: Draft, leftover: Leftover, survey: MemberSurvey, contents: _ReadContents
) -> Outcome:
    """Copies whole members to a fresh draft and damage to rejected/, then deletes the draft."""
    fresh = None
    if contents.taken:
        recipe = replace(leftover.recipe, replaces=leftover.id)
        fresh = spool.drafts.new(recipe, durable=spool.durable)
    try:
        if fresh is not None:
            contents.copy(fresh)
            fresh.commit()
        if survey.damages:
            pieces = (p for d in survey.damages for p in _raw(draft, d.start, d.end))
            spool.drafts.keep_damaged(leftover, pieces, _summary(survey.damages))
        spool.drafts.drop(leftover, durable=True)
    except BaseException:
        if fresh is not None and leftover.directory.exists():
            fresh.abandon()
        raise
    return Outcome(damages=survey.damages, fresh=fresh.leave() if fresh is not None else None)


def _summary(damages: list[Damage]) -> str:
    named = "; ".join(str(damage) for damage in damages[:NAMED_MAX])
    more = len(damages) - NAMED_MAX
    return f"{named}; and {more} more" if more > 0 else named


def _verified(source: Draft, member: Member, header: bytes) -> Iterator[bytes]:
    yield header
    checksum = 0
    for piece in read_pieces(source.descriptor, data_offset(member), member.size):
        checksum = crc32(piece, checksum)
        yield piece
    if checksum != member.crc:
        raise MemberDamaged("a member that was read whole reads differently now")


def _raw(draft: Draft, start: int, end: int) -> Iterator[bytes]:
    """Yields damaged bytes for a person; zeros for those that cannot be read at all."""
    end = min(end, os.fstat(draft.descriptor).st_size)  # a journal may promise more than is there
    for at in range(start, end, PIECE_BYTES):
        length = min(PIECE_BYTES, end - at)
        try:
            yield os.pread(draft.descriptor, length, at)
        except OSError:
            yield bytes(length)


class _ReadContents:
    """The contents of an envelope, read back from the members that are whole.

    A member that cannot be understood becomes a damage of `survey`.
    """

    def __init__(self, draft: Draft, promises: Promises, survey: MemberSurvey) -> None:
        self._draft = draft
        self._recipe = draft.recipe
        self._notes = promises.notes
        self.contents = Contents(profiles.get(draft.recipe.profile).member_name)
        self.taken: list[tuple[Member, Instance]] = []
        for member in survey.members:
            try:
                self.taken.append((member, self._take(member)))
            except (OSError, MemoryError):
                raise
            except Exception as problem:  # of any kind: it must not stop the other members
                survey.damages.append(damage_of(member, f"cannot be understood: {problem}"))
        survey.damages.sort()
        offsets = ((member.offset, instance) for member, instance in self.taken)
        self.origins, self._origins = Origins.recovered(promises, offsets)

    @property
    def renamed(self) -> bool:
        """True when a member has another name than the one that it gets now."""
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
        """Appends the members in their order, under their new names, with their notes. Raises
        OSError."""
        starts = {}
        for member, instance in self.taken:
            header = local_header(instance.name, member.crc, member.size)
            note, origin = self._notes.get(member.offset, b""), self._origins[member.offset]
            pieces = _verified(self._draft, member, header)
            starts[id(instance)] = target.append_pieces(pieces, note, origin)
        for instance, origin in self.origins.repetitions():
            target.repeat(starts[id(instance)], origin)

    def digest(self, member: Member) -> bytes | None:
        """Returns a member's digest as the recipe wants it. Raises OSError."""
        if self._recipe.skip_hashing:
            return None
        hasher = new_hash(self._recipe.digest)
        for piece in read_pieces(self._draft.descriptor, data_offset(member), member.size):
            hasher.update(piece)
        return hasher.digest()
