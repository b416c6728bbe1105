"""Makes digests of instances that are written. The sender does not wait for them; the seal does.

Wanted: a packer digests in small steps while it has nothing else to do, so that the next instance
is written and answered as soon as it is whole.
Guaranteed: a digest is of the bytes in the file: the member is read back, from the page cache as a
rule, and its CRC-32 is compared with that of the bytes that arrived. At most BEHIND_BYTES wait, and
one instance more until its status is given. An envelope is sealed with all its digests, or not at
all. When a packer dies, recovery.py makes the digests from the members.
Still wrong: reading back is one more copy of each instance.
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
from fastjmix.packer.open_envelope import OpenEnvelope

BEHIND_BYTES: Final = 16 << 20
"""Bytes that may wait: some 10 ms of SHA-256 before a seal, and in the page cache as a rule."""

STEP_BYTES: Final = 131072
"""Bytes of a step, before the lanes are looked at again: some 80 µs of SHA-256."""


@dataclass(slots=True)
class _Undigested:
    """The rest of a member: `left` bytes of the file from offset `at` on."""

    instance: Instance
    member: Member
    hasher: Hash
    at: int
    left: int
    crc: int = 0


def hasher_for(builder: Builder) -> Callable[[], Hash] | None:
    """Returns the function that makes an instance's hash object; None when it is not hashed."""
    return None if builder.skip_hashing else partial(new_hash, builder.digest)


class Digests:
    """The digests that one packer has yet to make, by envelope, oldest first."""

    def __init__(self) -> None:
        self._undigested: dict[OpenEnvelope, deque[_Undigested]] = {}
        self._file = FileDigest(crc32)
        self.bytes = 0

    def add(self, envelope: OpenEnvelope, instance: Instance) -> None:
        """Adds the instance that was appended last."""
        member = envelope.members[-1]
        undigested = _Undigested(
            instance,
            member,
            new_hash(envelope.builder.digest),
            data_offset(member),
            member.size,
        )
        self._undigested.setdefault(envelope, deque()).append(undigested)
        self.bytes += member.size

    @property
    def too_many(self) -> bool:
        """True when more than BEHIND_BYTES wait: digest before anything else is taken."""
        return self.bytes > BEHIND_BYTES

    @property
    def oldest(self) -> OpenEnvelope | None:
        """The envelope to go on with; None when nothing waits.

        An envelope that another thread writes into (OpenEnvelope.joining) is passed over.
        """
        for envelope in self._undigested:
            if not envelope.joining:
                return envelope
        return None

    def step(self, envelope: OpenEnvelope) -> None:
        """Digests a step of an envelope that waits. Raises OSError; its file is then suspect."""
        waiting = self._undigested[envelope]
        one = waiting[0]
        length = min(one.left, STEP_BYTES)
        try:
            reach("packer.digesting")
            one.crc = self._file.update(
                one.hasher, one.crc, envelope.draft.descriptor, one.at, length
            )
            if length == one.left and one.crc != one.member.crc:
                raise MemberDamaged("a member of the envelope is not what was written")
        except OSError:
            envelope.draft.suspect = True  # recovery looks where the damage is
            raise
        one.at += length
        one.left -= length
        self.bytes -= length
        if not one.left:
            one.instance.digest = one.hasher.digest()
            waiting.popleft()
            if not waiting:
                del self._undigested[envelope]

    def finish(self, envelope: OpenEnvelope) -> None:
        """Digests all that is left of an envelope. Raises OSError; its file is then suspect."""
        try:
            while envelope in self._undigested:
                self.step(envelope)
        finally:
            self.forget(envelope)

    def forget(self, envelope: OpenEnvelope) -> None:
        """Removes an envelope whose digests are not to be made here."""
        self.bytes -= sum(one.left for one in self._undigested.pop(envelope, ()))
