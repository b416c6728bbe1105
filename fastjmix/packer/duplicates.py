"""Finds the instances of an envelope that may have come again: by length and CRC-32.

Wanted: the same bytes are kept once, and a peer that sends one SOP Instance UID with ever other
bytes makes nobody wait.
Guaranteed: a new instance is compared, byte by byte, with COMPARED_MAX others at most, and only
with those whose data sets have its length and its CRC-32. Beyond that it is kept as another copy:
nothing is lost by not comparing. The CRC-32 of a data set follows from that of its member and that
of the File Meta Information before it, without another pass. An instance whose UID is new costs a
look in a dictionary.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, NamedTuple

from isal.isal_zlib import crc32, crc32_combine

from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.spool import Draft

COMPARED_MAX: Final = 4
"""Instances that a new one is compared with. Data sets of one length that differ have one CRC-32
once in 2**32 times, or because somebody makes them so."""


class Key(NamedTuple):
    """Properties that equal data sets have in common, and others hardly ever."""

    length: int
    crc: int


def data_set_crc(member_crc: int, prefix: bytes, length: int) -> int:
    """Returns the CRC-32 of the last `length` bytes of a member that begins with `prefix`.

    A CRC-32 of two parts is that of the first, moved past the second, XOR that of the second.
    """
    return member_crc ^ crc32_combine(crc32(prefix), 0, length)


class Twins:
    """The instances of UIDs that came more than once, in the archive of `draft`."""

    def __init__(self, draft: Draft, contents: Contents) -> None:
        self._draft = draft
        self._contents = contents
        self._known: dict[str, dict[Key, list[int]]] = {}

    def candidates(self, uid: str, key: Key) -> tuple[int, ...]:
        """Offsets of data sets that may equal one of this key; COMPARED_MAX at most.

        `uid` stands in the envelope already. Raises OSError.
        """
        return tuple(self._of(uid).get(key, ()))

    def _of(self, uid: str) -> dict[Key, list[int]]:
        known = self._known.get(uid)
        if known is None:
            known = self._known[uid] = {}
            for one in self._contents.twins(uid):
                self._enter(known, one)
        return known

    def entered(self, one: Instance) -> None:
        """Notes that an instance was kept whose UID stood here before."""
        with contextlib.suppress(OSError):  # one that cannot be read again is not compared with
            self._enter(self._of(one.sop_instance_uid), one)

    def _enter(self, known: dict[Key, list[int]], one: Instance) -> None:
        offsets = known.setdefault(self._key_of(one), [])
        if len(offsets) < COMPARED_MAX and one.data[0] not in offsets:
            offsets.append(one.data[0])

    def _key_of(self, one: Instance) -> Key:
        start, length = one.data
        before = one.size - length
        prefix = os.pread(self._draft.descriptor, before, start - before)
        return Key(length, data_set_crc(one.crc, prefix, length))
