"""Joins spilled instances, when they are whole, to the envelopes of their studies.

Guaranteed: a join runs on a thread of its own (spool/draft.py). Until it has ended, instances of
the same envelope wait in their lanes; others do not. The instance gets its status with the commit
after that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastjmix._core import Arrival, Intake
from fastjmix.errors import StorageError
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer.appender import Appender
from fastjmix.packer.envelope_choice import EnvelopeChoice
from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.refusals import Refusals
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.senders import Senders
from fastjmix.packer.spilled_instances import SpilledInstance, SpilledInstances
from fastjmix.packer.worker import Worker


@dataclass(slots=True)
class _Join:
    """A join that is under way. `take` takes the instances that wait for it, by lane."""

    lane: int
    envelope: OpenEnvelope
    arrival: Arrival
    spilled: SpilledInstance
    take: Callable[[int], None]


class Joiner:
    """The joins of one packer, which `worker` runs."""

    def __init__(
        self,
        intake: Intake,
        worker: Worker,
        spilled: SpilledInstances,
        envelopes: OpenEnvelopes,
        choice: EnvelopeChoice,
        commit: GroupCommit,
        appender: Appender,
        refusals: Refusals,
        senders: Senders,
        reservation: Reservation,
    ) -> None:
        self._intake = intake
        self._worker = worker
        self._spilled = spilled
        self._open = envelopes
        self._choice = choice
        self._commit = commit
        self._appender = appender
        self._refusals = refusals
        self._senders = senders
        self._reservation = reservation

    def begin(
        self,
        lane: int,
        arrival: Arrival,
        settings: IngestRules,
        current: OpenEnvelope | None,
        take: Callable[[int], None],
    ) -> None:
        """Begins to join the instance in this lane.

        `current` is the envelope that is open for its study. `take` is called afterwards, with each
        lane that waited. Raises OSError.
        """
        spilled = self._spilled[lane]
        spill = spilled.file
        self._spilled.append(lane, self._intake.buffers(lane))  # the rest of it
        self._reservation.publish()
        envelope = self._choice.envelope_for(lane, arrival, settings, current, 0)
        # A sync that began during the join would wait for its end.
        if not self._commit.commit_envelope(envelope):
            raise StorageError("the envelope could not keep an earlier instance")
        work = envelope.begin_join(arrival, spill)
        self._senders.instance_arrived(lane, envelope, arrival)
        self._spilled.begin_join(lane)
        join = _Join(lane, envelope, arrival, spilled, take)
        self._worker.submit(work, partial(self._end, join))

    def _end(self, join: _Join, work: Callable[[], int | Instance]) -> None:
        envelope = join.envelope
        waiting = envelope.end_join()
        self._spilled.end_join(join.spilled)
        try:
            found = work()
            instance = None
            if isinstance(found, Instance):
                envelope.repeat(join.arrival, found)
            else:
                instance = envelope.add_joined(join.arrival, found)
        except Exception as problem:
            self._open.changed(envelope)
            self._commit.append_failed(envelope, problem)
            self._refusals.refuse(join.lane, join.arrival, problem)
        else:
            envelope.timers.last_arrival = time.monotonic()
            self._open.changed(envelope)
            if instance is None:
                self._appender.take_duplicate(join.lane, envelope)
            else:
                self._appender.take_joined(join.lane, envelope, instance)
        for lane in waiting:
            join.take(lane)
