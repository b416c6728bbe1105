"""Finds instances whose bytes are in the envelope already: by length and CRC-32, then by bytes.

Wanted: the same bytes are kept once. A peer that sends one SOP Instance UID with ever other bytes
delays nobody.
Guaranteed: a new instance is compared, byte by byte, with at most COMPARED_MAX others, and only
with those whose data sets have its length and its CRC-32. Beyond that it is kept as another copy:
nothing is lost by not comparing. Only data sets are compared, since the File Meta Information
differs between calling AE titles. The CRC-32 of a data set follows from that of its member and that
of the File Meta Information before it, without another pass. An instance whose UID is new costs one
look into a dictionary.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

from isal.isal_zlib import crc32, crc32_combine

from fastjmix._core import Arrival
from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.spool import Draft, Spill

COMPARED_MAX: Final = 4
"""Instances that a new one is compared with. Different data sets of one length share a CRC-32 once
in 2**32 times, or where a peer makes them so."""

COMPARE_BYTES: Final = 1 << 20
"""Bytes compared at a time with an instance that is in a file."""


class Key(NamedTuple):
    """The properties that equal data sets share, and others hardly ever."""

    length: int
    crc: int


def data_set_crc(member_crc: int, prefix: bytes, length: int) -> int:
    """Returns the CRC-32 of the last `length` bytes of a member that begins with `prefix`.

    The CRC-32 of two parts is that of the first, moved past the second, XOR that of the second.
    """
    return member_crc ^ crc32_combine(crc32(prefix), 0, length)


class Duplicates:
    """The data sets in the archive of `draft` whose SOP Instance UIDs came more than once."""

    def __init__(self, draft: Draft, contents: Contents) -> None:
        self._draft = draft
        self._contents = contents
        self._known: dict[str, dict[Key, list[Instance]]] = {}

    def find(self, arrival: Arrival, buffers: Sequence[memoryview]) -> Instance | None:
        """Returns the instance in the archive that has the same data set; None for none.

        `buffers` are the member of the new one: the first is the File Meta Information. Raises
        OSError.
        """
        uid = arrival.sop_instance_uid.decode()
        if not self._contents.holds(uid):
            return None
        candidates = self._candidates(uid, arrival, bytes(buffers[0]))
        return next((one for one in candidates if self._equals_buffers(one, buffers[1:])), None)

    def candidates_for_spill(self, arrival: Arrival, spill: Spill) -> tuple[Instance, ...]:
        """Returns the instances whose data sets may equal that of a spilled instance.

        There are at most COMPARED_MAX. Raises OSError.
        """
        uid = arrival.sop_instance_uid.decode()
        if not self._contents.holds(uid):
            return ()
        prefix = os.pread(spill.descriptor, arrival.prefix_length, 0)
        return self._candidates(uid, arrival, prefix)

    def equals_spill(self, instance: Instance, arrival: Arrival, spill: Spill) -> bool:
        """Returns True when the data set of an instance is that of the spilled one.

        May run on any thread. Raises OSError.
        """
        start = instance.data[0]
        for at in range(0, arrival.data_bytes, COMPARE_BYTES):
            size = min(COMPARE_BYTES, arrival.data_bytes - at)
            theirs = os.pread(spill.descriptor, size, arrival.prefix_length + at)
            if os.pread(self._draft.descriptor, size, start + at) != theirs:
                return False
        return True

    def add(self, instance: Instance) -> None:
        """Notes an instance that was kept although its SOP Instance UID was in the envelope."""
        with contextlib.suppress(OSError):  # one that cannot be read again is not compared with
            self._enter(self._of(instance.sop_instance_uid), instance)

    def _candidates(self, uid: str, arrival: Arrival, prefix: bytes) -> tuple[Instance, ...]:
        length = arrival.data_bytes
        key = Key(length, data_set_crc(arrival.crc, prefix, length))
        return tuple(self._of(uid).get(key, ()))

    def _equals_buffers(self, instance: Instance, buffers: Sequence[memoryview]) -> bool:
        at = instance.data[0]
        for view in buffers:
            if os.pread(self._draft.descriptor, len(view), at) != bytes(view):
                return False
            at += len(view)
        return True

    def _of(self, uid: str) -> dict[Key, list[Instance]]:
        known = self._known.get(uid)
        if known is None:
            known = self._known[uid] = {}
            for instance in self._contents.twins(uid):
                self._enter(known, instance)
        return known

    def _enter(self, known: dict[Key, list[Instance]], instance: Instance) -> None:
        same = known.setdefault(self._key_of(instance), [])
        if len(same) < COMPARED_MAX and all(one is not instance for one in same):
            same.append(instance)

    def _key_of(self, instance: Instance) -> Key:
        start, length = instance.data
        before = instance.size - length
        prefix = os.pread(self._draft.descriptor, before, start - before)
        return Key(length, data_set_crc(instance.crc, prefix, length))
