"""Keeps which associations send to which studies, for the timers of open envelopes.

Wanted: no envelope is sealed while an instance of its study is arriving, nor between two instances
of a modality that opens an association for each.
Guaranteed: before an envelope is sealed by its timers, `note_inside` asks the lanes which
associations are inside an instance of its study. Its timers start anew with those. Its grace begins
when they have ended, with a whole instance or without. This costs nothing per instance.

A calling AE title that returns to a study within `quiet_secs` of its release, and after
`release_grace_secs`, is remembered (spool/calling_aes.py). Envelopes to which it sends from then on
wait `quiet_secs` for it after each release, instead of `release_grace_secs`. These are no returns:

- the same instance again, which is a repetition;
- an instance from an association that was open already when the other was released;
- an instance that comes while yet another association sends to the study;
- an instance that follows an association which broke off inside an instance.

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
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.ipc.metrics import Metrics
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.spool import Spool
from fastjmix.spool.calling_aes import CallingAEs

RELEASED_MAX: Final = 4096
"""Studies of released associations that are remembered for `quiet_secs`, of one packer, in 300
bytes each. With more of them at once, a return to the one that was left first is not seen."""

STUDIES_MAX: Final = 64
"""Studies that are remembered of one association. One that sends more is not opened for a single
instance."""

Key = tuple[Any, ...]


class _Released(NamedTuple):
    """The last association of a calling AE title that sent to a study has ended.

    `at`: when (monotonic seconds). `youngest`: the number of the youngest association then.
    `first`: the SOP Instance UID that it had sent first.
    """

    at: float
    youngest: int
    first: bytes


@dataclass(slots=True)
class _Sending:
    """An association. `first`: of each study, the SOP Instance UID that it sent first."""

    title: str
    first: dict[Key, bytes] = field(default_factory=dict)


class Senders:
    """The associations that send to one packer."""

    def __init__(
        self,
        intake: Intake,
        lanes: Lanes,
        rules: Sequence[IngestRules],
        envelopes: OpenEnvelopes,
        spool: Spool,
        metrics: Metrics,
    ) -> None:
        self._intake = intake
        self._lanes = lanes
        self._rules = rules
        self._open = envelopes
        self._known = CallingAEs(spool)
        self._metrics = metrics
        self._sending: dict[int, _Sending] = {}
        self._released: dict[tuple[str, Key], _Released] = {}

    def instance_arrived(self, lane: int, envelope: OpenEnvelope, arrival: Arrival) -> None:
        """Notes that the instance in this lane goes into an envelope: its timers start anew."""
        sending = self._sending.get(arrival.association)
        if sending is None:
            title = self._lanes.calling_ae(lane).decode("latin-1").strip()
            sending = self._sending[arrival.association] = _Sending(title)
        if envelope.key not in sending.first:
            self._begin(sending, envelope, arrival)
        self._open.instance_arrived(envelope, arrival.association, time.monotonic())

    def note_inside(self) -> None:
        """Notes in open envelopes which associations are inside an instance of their studies."""
        now = time.monotonic()
        for association, number, study in self._intake.inside():
            for envelope in self._open.of_study(self._rules[number], study):
                self._open.instance_arrived(envelope, association, now)

    def association_broke_off(self, lane: int) -> None:
        """Notes that the association in this lane ended inside an instance: it will send that
        again."""
        self.note_inside()
        self._sending.pop(self._intake.arrival(lane).association, None)

    def association_ended(self, association: int) -> None:
        """Notes that an association has ended."""
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
        envelope = self._open.get(key)
        if envelope is None or not envelope.timers.associations:
            self._released[title, key] = left
        if len(self._released) > RELEASED_MAX:
            del self._released[next(iter(self._released))]

    def _begin(self, sending: _Sending, envelope: OpenEnvelope, arrival: Arrival) -> None:
        """Notes the first instance of a study, and whether it is a return to the study."""
        if len(sending.first) >= STUDIES_MAX:
            del sending.first[next(iter(sending.first))]
        sending.first[envelope.key] = arrival.sop_instance_uid
        # Asked before this return is remembered: the study goes on by the rule it began with.
        envelope.timers.awaits_return = envelope.timers.awaits_return or self._known.returns(
            sending.title
        )
        left = self._released.pop((sending.title, envelope.key), None)
        if left is None or not self._is_return(left, envelope, arrival):
            return
        self._metrics.add("returns_total")
        if self._known.learn(sending.title):
            log.get().info(
                "calling_ae_returns",
                calling_ae=sending.title,
                study=log.get().study(envelope.study_uid),
                after_secs=round(arrival.began - left.at, 3),
                waits_secs=envelope.builder.quiet_secs,
            )

    def _is_return(self, left: _Released, envelope: OpenEnvelope, arrival: Arrival) -> bool:
        builder = envelope.builder
        return (
            builder.release_grace_secs < arrival.began - left.at <= builder.quiet_secs
            and arrival.association > left.youngest
            and arrival.sop_instance_uid != left.first
        )
