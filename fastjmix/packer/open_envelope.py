"""Holds an envelope that is being packed: its draft on disk, its contents in memory.

Wanted: a study has one writer. An instance is appended once, when it is whole.
Guaranteed: a member is written with its final header. The same bytes are kept once (duplicates.py
says how far that is looked for). Other bytes under the same SOP Instance UID are kept as well. An
append that fails leaves nothing in the envelope. While a spilled instance is joined, on another
thread, nothing else touches the draft; the lanes of instances that come meanwhile wait.
Still wrong: the contents stay in memory until the seal (see jmix/write/envelope.py).

Nothing here knows of lanes' memory or of other processes.
"""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from fastjmix._core import Arrival
from fastjmix.config import Builder
from fastjmix.dicom.dataset import describe_series
from fastjmix.errors import StorageFull
from fastjmix.failpoints import reach
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.jmix.write import profiles
from fastjmix.jmix.write.archive import Member, data_offset, local_header
from fastjmix.jmix.write.envelope import Contents, Instance
from fastjmix.packer.conflicts import Conflicts
from fastjmix.packer.duplicates import Duplicates
from fastjmix.packer.instances import note_of
from fastjmix.packer.origins import Origins
from fastjmix.packer.seal_timers import SealTimers
from fastjmix.routing.router import RouteClass
from fastjmix.routing.rules import Rule
from fastjmix.spool import Draft, Recipe, Spill, Spool
from fastjmix.spool.journal import Origin

CIPHER_BYTES_MAX: Final = (1 << 36) - (1 << 28)
"""Bytes of an envelope that is to be encrypted: what AES-GCM can encrypt, less the documents
(256 MB)."""
CIPHER_BYTES_EACH: Final = 1024
"""Also subtracted, for each member: the most that it takes in a tar beyond its bytes in the
archive."""


def recipe(settings: IngestRules, packer: int, study: str, calling_ae: str) -> Recipe:
    """Returns how any process can finish the envelope."""
    builder, route = settings.builder, settings.route_class or RouteClass()
    rule = route.rule or Rule("", upstreams=settings.upstreams)
    return Recipe(
        packer=packer,
        pipeline=settings.listener.pipeline,
        upstreams=rule.upstreams,
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
        priority=rule.priority,
        tags=rule.tags,
        rule=rule.name,
        at_seal=route.at_seal,
    )


Key = tuple[str, Builder, bytes, tuple[str, ...], RouteClass | None]
"""Instances of one endpoint, packing rules, Study Instance UID, upstreams and class of the
endpoint's route share an open envelope. A new configuration may change each of them but the UID."""


class OpenEnvelope:
    """An envelope that takes instances of the study `study_uid`, packed by `settings`.

    `key`: see key_of. `joining`: a spilled instance is being joined, on another thread.
    `waiting_lanes`: those whose instances come after it.
    """

    __slots__ = (
        "conflicts",
        "contents",
        "draft",
        "duplicates",
        "joining",
        "key",
        "members",
        "origins",
        "settings",
        "study_uid",
        "timers",
        "waiting_lanes",
    )

    def __init__(
        self, draft: Draft, study_uid: str, settings: IngestRules, calling_ae: str = ""
    ) -> None:
        naming = profiles.get(settings.builder.profile).member_name
        self.draft = draft
        self.study_uid = study_uid
        self.settings = settings
        self.key = key_of(settings, study_uid.encode())
        self.contents = Contents(naming)
        self.members: list[Member] = []
        self.timers = SealTimers(settings.builder, time.monotonic())
        self.duplicates = Duplicates(draft, self.contents)
        self.conflicts = Conflicts(draft.id, calling_ae, study_uid)
        self.origins = Origins()
        self.joining = False
        self.waiting_lanes: list[int] = []

    @classmethod
    def create(
        cls, spool: Spool, settings: IngestRules, packer: int, arrival: Arrival, calling_ae: str
    ) -> OpenEnvelope:
        """Creates an envelope for the study of an instance. Raises OSError."""
        study = arrival.study_instance_uid.decode()
        draft = spool.drafts.new(
            recipe(settings, packer, study, calling_ae),
            durable=settings.builder.durability == "fsync",
        )
        return cls(draft, study, settings, calling_ae)

    @property
    def builder(self) -> Builder:
        """The rules by which it is packed."""
        return self.settings.builder

    @property
    def due(self) -> float:
        """When it is to be sealed, if nothing more arrives (monotonic seconds)."""
        return math.inf if self.joining else self.timers.due

    @property
    def end(self) -> int:
        """Bytes of the archive up to the end of its last member in `members`."""
        if not self.members:
            return 0
        return data_offset(self.members[-1]) + self.members[-1].size

    def full_with(self, size: int) -> bool:
        """Returns True when one more member of this size would pass a bound: seal first."""
        if not self.members:
            return False
        most = self.builder.max_envelope_bytes
        if encrypts(self.builder):
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
        """Appends an instance whose member is `buffers`, the File Meta Information first.

        `written` is called as soon as the kernel has its bytes, before it is added to `contents`:
        `buffers` are not read after that. Returns None when the same bytes are here already. Raises
        OSError. The envelope is then as it was if `draft.end` is; else it must be read back.
        """
        self._check_size(arrival)
        if (same := self.duplicates.find(arrival, buffers)) is not None:
            self.repeat(arrival, same)
            return None
        name, header = self._header(arrival)
        origin = self.origins.of(arrival)
        offset = self.draft.append([header, *buffers], note_of(arrival), origin)
        reach("packer.appended")
        if written is not None:
            written()
        return self._add(arrival, name, offset, origin)

    # -- spilled instances -----------------------------------------------------------------------

    def begin_join(self, arrival: Arrival, spill: Spill) -> Callable[[], int | Instance]:
        """Returns the work, for another thread, that appends an instance which is whole in `spill`.

        The work returns the member's offset; or the instance whose bytes are the same. Until
        `end_join` the envelope is `joining`. Raises OSError.
        """
        self._check_size(arrival)
        candidates = self.duplicates.candidates_for_spill(arrival, spill)
        _, header = self._header(arrival)
        notes = note_of(arrival), self.origins.of(arrival)
        self.joining = True
        return partial(self._join, arrival, spill, header, notes, candidates)

    def _join(
        self,
        arrival: Arrival,
        spill: Spill,
        header: bytes,
        notes: tuple[bytes, Origin],
        candidates: tuple[Instance, ...],
    ) -> int | Instance:
        for one in candidates:
            if self.duplicates.equals_spill(one, arrival, spill):
                return one
        offset = self.draft.join(header, spill, *notes)
        reach("packer.appended")
        return offset

    def end_join(self) -> list[int]:
        """Ends `joining`; returns the lanes that waited for it."""
        self.joining = False
        lanes, self.waiting_lanes = self.waiting_lanes, []
        return lanes

    def add_joined(self, arrival: Arrival, offset: int) -> Instance:
        """Adds an instance that was joined at `offset`."""
        name, _ = self._header(arrival)
        return self._add(arrival, name, offset, self.origins.of(arrival))

    def repeat(self, arrival: Arrival, same: Instance) -> None:
        """Notes that an instance has come whose bytes are here already, as those of `same`."""
        origin = self.origins.of(arrival)
        self.draft.repeat(_offset_of(same), origin)
        self.origins.add(same, origin, arrival.size, kept=False)

    # -- members ---------------------------------------------------------------------------------

    def _check_size(self, arrival: Arrival) -> None:
        if arrival.size > CIPHER_BYTES_MAX and encrypts(self.builder):
            raise StorageFull("an instance is larger than what AES-GCM can encrypt", errno.EFBIG)

    def _header(self, arrival: Arrival) -> tuple[bytes, bytes]:
        """Returns the name and the local file header of the next member."""
        name = self.contents.next_name(
            arrival.study_instance_uid.decode(),
            arrival.series_instance_uid.decode(),
            arrival.sop_instance_uid.decode(),
        )
        return name, local_header(name, arrival.crc, arrival.size)

    def _add(self, arrival: Arrival, name: bytes, offset: int, origin: Origin) -> Instance:
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
        self.origins.add(instance, origin, arrival.size)
        if instance.conflict:
            self.duplicates.add(instance)
        return instance


def _offset_of(instance: Instance) -> int:
    """Returns the offset of the member that holds an instance."""
    start, length = instance.data
    at_the_beginning = Member(instance.name, instance.crc, instance.size, 0)
    return start - (instance.size - length) - data_offset(at_the_beginning)


def encrypts(builder: Builder) -> bool:
    """Returns True when these rules of packing encrypt payloads."""
    return builder.published is not None and builder.published.encryption is not None


def key_of(settings: IngestRules, study_instance_uid: bytes) -> Key:
    """Returns the key of an envelope: instances of one study, pipeline and rules share it."""
    uid, upstreams = study_instance_uid, settings.upstreams
    return settings.listener.endpoint, settings.builder, uid, upstreams, settings.route_class
