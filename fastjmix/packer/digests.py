"""Digests of instances that are written: what a sender does not wait for, unless it is the seal.

Wanted: a packer digests while nothing else is to be done, in small steps, so that the next
instance is written and answered as soon as it is whole.
Guaranteed: a digest is of what the file holds: the member is read back, from the page cache as a
rule, and its CRC-32 is compared with that of the bytes that arrived. Of what waits there are
BEHIND_BYTES, and one instance more until its status is given. An envelope is sealed with all its
digests, or not at all.
Still wrong: the reading back is one more copy of each instance.

A packer that dies leaves digests unmade: recovery.py makes them all from the members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from isal.isal_zlib import crc32

from fastjmix._core import FileDigest
from fastjmix.config import Builder
from fastjmix.errors import MemberDamaged
from fastjmix.failpoints import reach
from fastjmix.jmix.digests import Hash, new_hash
from fastjmix.jmix.write.archive import Member, data_offset
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer.open_envelope import Packing

BEHIND_BYTES: Final = 16 << 20
"""Bytes that may wait: some 10 ms of SHA-256 before a seal, and in the page cache as a rule."""

STEP_BYTES: Final = 131072
"""Bytes of a step, before the lanes are looked at again: some 80 µs of SHA-256."""


@dataclass(slots=True)
class _Owed:
    """What is left of a member: `left` bytes of the file from `at` on."""

    instance: Instance
    member: Member
    hasher: Hash
    at: int
    left: int
    crc: int = 0


def hasher_for(builder: Builder) -> Callable[[], Hash] | None:
    """Makes the hash object of an instance; None when it is not hashed."""
    return None if builder.skip_hashing else partial(new_hash, builder.digest)


class Digests:
    """What one packer has yet to digest, by envelope, oldest first."""

    def __init__(self) -> None:
        self._owed: dict[Packing, deque[_Owed]] = {}
        self._file = FileDigest(crc32)
        self.bytes = 0

    def owe(self, packing: Packing, instance: Instance) -> None:
        """The instance that was appended last is to be digested."""
        member = packing.members[-1]
        owed = _Owed(
            instance,
            member,
            new_hash(packing.builder.digest),
            data_offset(member),
            member.size,
        )
        self._owed.setdefault(packing, deque()).append(owed)
        self.bytes += member.size

    @property
    def too_many(self) -> bool:
        """More than BEHIND_BYTES wait: go on with them before anything else is taken."""
        return self.bytes > BEHIND_BYTES

    @property
    def oldest(self) -> Packing | None:
        """Returns the envelope to go on with; None when nothing waits.

        Not one that another thread writes into (Packing.joining).
        """
        return next((packing for packing in self._owed if not packing.joining), None)

    def step(self, packing: Packing) -> None:
        """A little of an envelope that waits. Raises OSError; its file is then suspect."""
        waiting = self._owed[packing]
        one = waiting[0]
        length = min(one.left, STEP_BYTES)
        try:
            reach("packer.digesting")
            one.crc = self._file.update(
                one.hasher, one.crc, packing.draft.descriptor, one.at, length
            )
            if length == one.left and one.crc != one.member.crc:
                raise MemberDamaged("a member of the envelope is not what was written")
        except OSError:
            packing.draft.suspect = True  # recovery looks where the damage is
            raise
        one.at += length
        one.left -= length
        self.bytes -= length
        if not one.left:
            one.instance.digest = one.hasher.digest()
            waiting.popleft()
            if not waiting:
                del self._owed[packing]

    def finish(self, packing: Packing) -> None:
        """All that is left of an envelope. Raises OSError; its file is then suspect."""
        try:
            while packing in self._owed:
                self.step(packing)
        finally:
            self.forget(packing)

    def forget(self, packing: Packing) -> None:
        """An envelope that somebody else will read from the disk, or nobody."""
        self.bytes -= sum(one.left for one in self._owed.pop(packing, ()))
