"""Packs an envelope: draft on disk, contents in memory, timers.

Wanted: one writer per study; an instance is appended once, when it is whole.
Guaranteed: a member is written with its final header; the same bytes again are kept once
(duplicates.py says how far that is looked for); other bytes under the same SOP Instance UID are
both kept; an append that fails leaves no trace. While a spilled instance is joined, on another
thread, nothing else touches the draft (`joining`), and those that come meanwhile are `waiting`.
Still wrong: the contents stay in memory until the seal (see jmix/write/envelope.py).

The packer process (loop.py) drives this; nothing here knows of lanes or of other processes. Its
end is seal.py.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from fastjmix._core import Arrival
from fastjmix.config import Builder
from fastjmix.dicom.dataset import describe_series
from fastjmix.errors import StorageFull
from fastjmix.failpoints import reach
from fastjmix.ipc.ingest_rules import Settings
from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import Member, data_offset, local_header
from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.packer.duplicates import Key, Twins, data_set_crc
from fastjmix.packer.instances import note_of
from fastjmix.spool import Draft, Recipe, Spill, Spool

CIPHER_BYTES_MAX: Final = (1 << 36) - (1 << 28)
"""Bytes of an envelope that is to be encrypted: what AES-GCM can, less the documents (256 MB)."""
CIPHER_BYTES_EACH: Final = 1024
"""And less what a member takes in a tar beyond what it took in the archive, at most."""

COMPARE_BYTES: Final = 1 << 20
"""Bytes compared at a time when an instance comes again."""


def recipe(settings: Settings, packer: int, study: str, calling_ae: str) -> Recipe:
    """Returns how any process can finish the envelope."""
    builder = settings.builder
    return Recipe(
        packer=packer,
        pipeline=settings.listener.pipeline,
        upstream=settings.listener.upstream.name,
        ack=settings.listener.ack,
        profile=builder.profile,
        digest=builder.digest,
        payload_hash=builder.payload_hash,
        skip_hashing=builder.skip_hashing,
        skip_listing=builder.skip_listing,
        calling_ae=calling_ae,
        study=study,
        created=time.time(),
        published=builder.published.dump() if builder.published is not None else None,
    )


@dataclass(slots=True, eq=False)
class Packing:
    """An open envelope. Times are monotonic seconds; `associations` those that may still send.

    `awaits_return`: a calling AE title sends to it that comes back for its studies (senders.py).
    `key`: see key_of. `waiting`: lanes whose instances come after the one that is being joined.
    `conflicts`: instances whose SOP Instance UID was there, with other bytes. `strangers`: those
    whose patient is not the study's. Both are counted by conflicts.py.
    """

    draft: Draft
    study_uid: str
    settings: Settings
    contents: Contents
    last_arrival: float
    members: list[Member] = field(default_factory=list)
    associations: set[int] = field(default_factory=set)
    released_at: float | None = None
    awaits_return: bool = False
    key: tuple[Any, ...] = ()
    joining: bool = False
    waiting: list[int] = field(default_factory=list)
    conflicts: int = 0
    strangers: int = 0
    _twins: Twins | None = None

    @classmethod
    def open(
        cls,
        spool: Spool,
        settings: Settings,
        packer: int,
        arrival: Arrival,
        ae: str,
    ) -> Packing:
        """A new envelope for the study of an instance. Raises OSError."""
        builder = settings.builder
        now = time.monotonic()
        study = arrival.study_instance_uid.decode()
        draft = spool.drafts.new(
            recipe(settings, packer, study, ae),
            durable=builder.durability == "fsync",
        )
        naming = profiles.get(builder.profile).member_name
        key = key_of(settings, arrival.study_instance_uid)
        return cls(draft, study, settings, Contents(naming), now, key=key)

    @property
    def builder(self) -> Builder:
        """The rules it is packed by."""
        return self.settings.builder

    @property
    def end(self) -> int:
        """Bytes of the archive as far as its last member that was entered here."""
        if not self.members:
            return 0
        return data_offset(self.members[-1]) + self.members[-1].size

    @property
    def encrypts(self) -> bool:
        """Will its payload be encrypted?"""
        return encrypts(self.builder)

    def full_with(self, size: int) -> bool:
        """True when one more member of this size would pass a bound: seal first."""
        if not self.members:
            return False
        most = self.builder.max_envelope_bytes
        if self.encrypts:
            most = min(most, CIPHER_BYTES_MAX - CIPHER_BYTES_EACH * len(self.members))
        if self.draft.end + size > most:
            return True
        return len(self.members) >= self.builder.max_envelope_instances

    def append(
        self,
        arrival: Arrival,
        buffers: Sequence[memoryview],
        written: Callable[[], object] | None = None,
    ) -> Instance | None:
        """Takes an instance whose member is `buffers`, the File Meta Information first.

        `written` is called as soon as its bytes are with the kernel, before they are entered here:
        `buffers` are not read after that. Returns None when the same bytes are here already. Raises
        OSError. The envelope is then as it was if `draft.end` is; else it must be read back.
        """
        self._check_size(arrival)
        same = self._same(arrival, lambda: bytes(buffers[0]))
        if any(self._equal(start, buffers) for start in same):
            return None
        name, header = self._header(arrival)
        offset = self.draft.append([header, *buffers], note_of(arrival))
        reach("packer.appended")
        if written is not None:
            written()
        return self._enter(arrival, name, offset)

    def join(self, arrival: Arrival, spill: Spill) -> Callable[[], int | None]:
        """Does the same for an instance that is whole in `spill`. Returns the work for a thread.

        Then `joined` gets the result of that work; until then the envelope is `joining`. Raises
        OSError.
        """
        self._check_size(arrival)
        prefix = arrival.prefix_length
        same = self._same(arrival, lambda: os.pread(spill.descriptor, prefix, 0))
        _, header = self._header(arrival)
        note = note_of(arrival)
        self.joining = True
        return partial(self._join, arrival, spill, header, note, same)

    def joined(self, arrival: Arrival, offset: int | None) -> Instance | None:
        """Enters what was joined at `offset`; None: the same bytes are here already."""
        if offset is None:
            return None
        name, _ = self._header(arrival)
        return self._enter(arrival, name, offset)

    def _join(
        self, arrival: Arrival, spill: Spill, header: bytes, note: bytes, same: tuple[int, ...]
    ) -> int | None:
        if any(self._equals_spill(start, arrival, spill) for start in same):
            return None
        offset = self.draft.join(header, spill, note)
        reach("packer.appended")
        return offset

    def _check_size(self, arrival: Arrival) -> None:
        if arrival.size > CIPHER_BYTES_MAX and self.encrypts:
            raise StorageFull("an instance is larger than what AES-GCM can encrypt", errno.EFBIG)

    def _header(self, arrival: Arrival) -> tuple[bytes, bytes]:
        """Returns name and local file header of the member that comes next."""
        name = self.contents.next_name(
            arrival.study_instance_uid.decode(),
            arrival.series_instance_uid.decode(),
            arrival.sop_instance_uid.decode(),
        )
        return name, local_header(name, arrival.crc, arrival.size)

    def _enter(self, arrival: Arrival, name: bytes, offset: int) -> Instance:
        member = Member(name, arrival.crc, arrival.size, offset)
        instance = self.contents.add(
            arrival.study_instance_uid.decode(),
            arrival.series_instance_uid.decode(),
            arrival.sop_class_uid.decode(),
            arrival.sop_instance_uid.decode(),
            arrival.transfer_syntax_uid.decode(),
            arrival.instance_number,
            arrival.size,
            arrival.digest,
            describe_series(arrival.elements),
            (data_offset(member) + arrival.prefix_length, arrival.data_bytes),
            arrival.crc,
            arrival.fault.decode(),
        )
        self.members.append(member)
        if instance.conflict and self._twins is not None:
            self._twins.entered(instance)
        return instance

    # -- the same again ----------------------------------------------------------------------

    def _same(self, arrival: Arrival, prefix: Callable[[], bytes]) -> tuple[int, ...]:
        """Returns where data sets begin that may be that of this instance. Raises OSError."""
        uid = arrival.sop_instance_uid.decode()
        if not self.contents.holds(uid):
            return ()
        if self._twins is None:
            self._twins = Twins(self.draft, self.contents)
        crc = data_set_crc(arrival.crc, prefix(), arrival.data_bytes)
        return self._twins.candidates(uid, Key(arrival.data_bytes, crc))

    def _equal(self, start: int, buffers: Sequence[memoryview]) -> bool:
        """Data sets only: the File Meta Information differs between calling AE titles."""
        at = start
        for view in buffers[1:]:
            if os.pread(self.draft.descriptor, len(view), at) != bytes(view):
                return False
            at += len(view)
        return True

    def _equals_spill(self, start: int, arrival: Arrival, spill: Spill) -> bool:
        for at in range(0, arrival.data_bytes, COMPARE_BYTES):
            size = min(COMPARE_BYTES, arrival.data_bytes - at)
            theirs = os.pread(spill.descriptor, size, arrival.prefix_length + at)
            if os.pread(self.draft.descriptor, size, start + at) != theirs:
                return False
        return True

    # -- timers ------------------------------------------------------------------------------

    def due(self) -> float:
        """When the envelope is to be sealed, as things stand now (monotonic seconds)."""
        if self.joining:
            return math.inf
        quiet = self.last_arrival + self.builder.quiet_secs
        if self.released_at is None:
            return quiet
        if self.awaits_return:
            return self.released_at + self.builder.quiet_secs
        return min(quiet, self.released_at + self.builder.release_grace_secs)

    @property
    def why_due(self) -> str:
        """Says which timer seals it, for the log."""
        if self.released_at is None:
            return "quiet"
        return "not returned" if self.awaits_return else "released"

    def association_ended(self, association: int, now: float) -> None:
        """An association that sent to this study is over; after the last one the grace begins."""
        self.associations.discard(association)
        if not self.associations and self.released_at is None:
            self.released_at = now

    def instance_arrived(self, association: int, now: float) -> None:
        """The timers begin anew."""
        self.associations.add(association)
        self.last_arrival = now
        self.released_at = None


def encrypts(builder: Builder) -> bool:
    """Do these rules of packing encrypt payloads?"""
    return builder.published is not None and builder.published.encryption is not None


def key_of(settings: Settings, study_instance_uid: bytes) -> tuple[Any, ...]:
    """Instances with equal keys share an envelope: study, pipeline and rules of packing."""
    return settings.listener.endpoint, settings.builder, study_instance_uid
