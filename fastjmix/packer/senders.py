"""Keeps which associations send to which studies, for the timers of open envelopes.

Wanted: no envelope is sealed while an instance of its study is on the wire, nor between two images
of a modality that opens an association for each.
Guaranteed: before an envelope is sealed by its timers, the lanes are asked which associations are
inside an instance of its study (`note_inside`): its timers begin anew with those, and its grace
begins when they have ended, with a whole instance or without. This costs nothing per instance. A
calling AE title that comes back for a study within `quiet_secs` of its release is remembered
(spool/calling_aes.py), if the grace was too short for it: envelopes to which it sends from then on
wait `quiet_secs` for it after each release, instead of `release_grace_secs`. No return is: the same
instance again, a repetition; what an association sends that was open already when the other was
released, or while yet another sends to the study; what follows one that broke off inside an
instance.
Still wrong: an association that begins before its packer has seen the end of the one before it
(less than a millisecond as a rule) is taken for a parallel one; the next return is seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from fastjmix import log
from fastjmix._core import Arrival, Intake, Lanes
from fastjmix.ipc.ingest_rules import Settings
from fastjmix.ipc.metrics import Stats
from fastjmix.packer.open_envelope import Packing, key_of
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.spool import Spool
from fastjmix.spool.calling_aes import CallingAEs

RELEASED_MAX: Final = 4096
"""Studies of released associations that are remembered for `quiet_secs`, of one packer, in 300
bytes each. More of them at once, and the return of who was released first is not seen."""

STUDIES_MAX: Final = 64
"""Studies that are remembered of one association: one that sends more is none for an image."""

Key = tuple[Any, ...]


class _Released(NamedTuple):
    """A calling AE title left a study: when (monotonic seconds), the number of the youngest
    association then, and which instance it had sent first."""

    at: float
    youngest: int
    first: bytes


@dataclass(slots=True)
class _Sending:
    """An association: its calling AE title, and of each study the first instance that it sent."""

    title: str
    first: dict[Key, bytes] = field(default_factory=dict)


class Senders:
    """Those of one packer."""

    def __init__(
        self,
        intake: Intake,
        lanes: Lanes,
        rows: Sequence[Settings],
        envelopes: OpenEnvelopes,
        spool: Spool,
        stats: Stats,
    ) -> None:
        self._intake = intake
        self._lanes = lanes
        self._rows = rows
        self._open = envelopes
        self._known = CallingAEs(spool)
        self._stats = stats
        self._sending: dict[int, _Sending] = {}
        self._released: dict[tuple[str, Key], _Released] = {}

    def arrived(self, lane: int, packing: Packing, arrival: Arrival) -> None:
        """Notes that the instance in this lane goes into an envelope: its timers begin anew."""
        sending = self._sending.get(arrival.association)
        if sending is None:
            title = self._lanes.calling_ae(lane).decode("latin-1").strip()
            sending = self._sending[arrival.association] = _Sending(title)
        if packing.key not in sending.first:
            self._begin(sending, packing, arrival)
        self._open.arriving(packing, arrival.association, time.monotonic())

    def note_inside(self) -> None:
        """Gives open envelopes the associations that are inside an instance of their studies."""
        now = time.monotonic()
        for association, number, study in self._intake.inside():
            packing = self._open.get(key_of(self._rows[number], study))
            if packing is not None:
                self._open.arriving(packing, association, now)

    def broke_off(self, lane: int) -> None:
        """Notes that the association in this lane ended inside an instance, which it will send
        again."""
        self.note_inside()
        self._sending.pop(self._intake.arrival(lane).association, None)

    def ended(self, association: int) -> None:
        """Notes that no more comes of this association."""
        now = time.monotonic()
        self._open.association_ended(association, now)
        sending = self._sending.pop(association, None)
        if sending is not None:
            youngest = self._lanes.newest_association
            for key, first in sending.first.items():
                self._leave(sending.title, key, _Released(now, youngest, first))

    def _leave(self, title: str, key: Key, left: _Released) -> None:
        """Notes that an association left a study, if it was the last one there."""
        self._released.pop((title, key), None)
        packing = self._open.get(key)
        if packing is None or not packing.associations:
            self._released[title, key] = left
        if len(self._released) > RELEASED_MAX:
            del self._released[next(iter(self._released))]

    def _begin(self, sending: _Sending, packing: Packing, arrival: Arrival) -> None:
        """Looks whether the association comes back to a study that another one left."""
        if len(sending.first) >= STUDIES_MAX:
            del sending.first[next(iter(sending.first))]
        sending.first[packing.key] = arrival.sop_instance_uid
        # As it was before this return: the study that teaches us goes on as it began.
        packing.awaits_return = packing.awaits_return or self._known.returns(sending.title)
        left = self._released.pop((sending.title, packing.key), None)
        if left is None or not self._is_return(left, packing, arrival):
            return
        self._stats.add("returns_total")
        if self._known.learn(sending.title):
            log.get().info(
                "calling_ae_returns",
                calling_ae=sending.title,
                study=packing.study_uid,
                after_secs=round(arrival.began - left.at, 3),
                waits_secs=packing.builder.quiet_secs,
            )

    def _is_return(self, left: _Released, packing: Packing, arrival: Arrival) -> bool:
        rules = packing.builder
        return (
            rules.release_grace_secs < arrival.began - left.at <= rules.quiet_secs
            and arrival.association > left.youngest
            and arrival.sop_instance_uid != left.first
        )
