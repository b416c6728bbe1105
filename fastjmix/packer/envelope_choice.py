"""Chooses the envelope for an instance: the one that is open for its study, or a new one.

Guaranteed: an envelope is chosen only if the storage has free space for the instance and for all
that follows from it. An open envelope that cannot take the instance is sealed first. So is the one
that was quiet for longest, where no more may be open.
"""

from __future__ import annotations

from dataclasses import asdict

from fastjmix._core import Arrival, Lanes
from fastjmix.dicom.dataset import describe_series
from fastjmix.ipc.events import Events
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.packer.free_space import require_space
from fastjmix.packer.open_envelope import OpenEnvelope, encrypts
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.origins import facts_of_first
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.seal_schedule import SealSchedule
from fastjmix.spool import DRAFT_INODES, OPEN_INODES, AssociationFacts, FreeSpace, Spool, seal_bytes


class EnvelopeChoice:
    """The choice of the packer `number`."""

    def __init__(
        self,
        number: int,
        lanes: Lanes,
        spool: Spool,
        space: FreeSpace,
        envelopes: OpenEnvelopes,
        schedule: SealSchedule,
        reservation: Reservation,
        events: Events,
    ) -> None:
        self._number = number
        self._lanes = lanes
        self._spool = spool
        self._space = space
        self._open = envelopes
        self._schedule = schedule
        self._reservation = reservation
        self._events = events

    def envelope_for(
        self,
        lane: int,
        arrival: Arrival,
        settings: IngestRules,
        current: OpenEnvelope | None,
        size: int,
    ) -> OpenEnvelope:
        """Returns the envelope for the instance in this lane.

        `current` is the one that is open for its study. `size` are the bytes that the instance will
        take of the disk, as far as they are not written. Raises OSError.
        """
        full = current if current is not None and current.full_with(arrival.size) else None
        opens = current is None or full is not None
        inodes = DRAFT_INODES + OPEN_INODES if opens else 0
        require_space(self._space, size + seal_bytes(opens, 1), inodes)
        if current is not None and full is None:
            return current
        if full is not None:
            self._schedule.seal_full(full)
        self._schedule.seal_before_another()
        return self._create(lane, arrival, settings)

    def _create(self, lane: int, arrival: Arrival, settings: IngestRules) -> OpenEnvelope:
        calling_ae = self._lanes.calling_ae(lane).decode("latin-1").strip()
        envelope = OpenEnvelope.create(self._spool, settings, self._number, arrival, calling_ae)
        self._space.spend(0, files=DRAFT_INODES)
        self._open.add(envelope)
        self._reservation.publish()
        self._report_opened(envelope, arrival, calling_ae)
        return envelope

    def _report_opened(self, envelope: OpenEnvelope, arrival: Arrival, calling_ae: str) -> None:
        """Sends the ledger what the first instance says: a study is found while it is packed."""
        listener = envelope.settings.listener
        facts = AssociationFacts.load(arrival.association_facts)
        said = facts_of_first(
            envelope.study_uid,
            describe_series(arrival.elements),
            encrypted=encrypts(envelope.builder),
        )
        self._events.send(
            "opened",
            envelope=envelope.draft.id,
            study_instance_uid=envelope.study_uid,
            calling_ae=calling_ae,
            pipeline=listener.pipeline,
            upstream=envelope.draft.recipe.upstream_names,
            association=facts.id if facts is not None else "",
            study=asdict(said),
        )
