"""Appends instances to open envelopes, and does what follows from it: counts, digest, status.

Guaranteed: an instance that was appended waits for a commit (group_commit.py), or for the
upstream's answer (`ack = "uploaded"`). With the page cache as the promise it is committed at once:
the sender goes on while the rest is done here.
"""

from __future__ import annotations

from functools import partial

from fastjmix._core import Arrival, Intake
from fastjmix.ipc.metrics import Metrics
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer.awaiting_upstream import AwaitingUpstream
from fastjmix.packer.digests import Digests
from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.sealer import Sealer
from fastjmix.packer.senders import Senders
from fastjmix.spool import FreeSpace


class Appender:
    """Appends the instances of one packer."""

    def __init__(
        self,
        intake: Intake,
        metrics: Metrics,
        space: FreeSpace,
        envelopes: OpenEnvelopes,
        senders: Senders,
        digests: Digests,
        reservation: Reservation,
        commit: GroupCommit,
        sealer: Sealer,
        awaiting: AwaitingUpstream,
    ) -> None:
        self._intake = intake
        self._metrics = metrics
        self._space = space
        self._open = envelopes
        self._senders = senders
        self._digests = digests
        self._reservation = reservation
        self._commit = commit
        self._sealer = sealer
        self._awaiting = awaiting

    def append(self, lane: int, envelope: OpenEnvelope, arrival: Arrival) -> None:
        """Appends the instance in this lane. Raises whatever the append raises."""
        rules = envelope.settings
        at_once = rules.builder.durability == "page-cache" and rules.listener.ack == "stored"
        written = partial(self._commit.commit_at_once, lane, envelope) if at_once else None
        try:
            instance = envelope.append(arrival, self._intake.buffers(lane), written)
        except Exception as problem:
            self._commit.append_failed(envelope, problem)
            raise
        self._space.spend(arrival.size)
        self._senders.instance_arrived(lane, envelope, arrival)
        if instance is None:
            self.take_duplicate(lane, envelope)
        else:
            self._count(envelope, instance)
            if not at_once:
                self._await_status(lane, envelope)

    def take_joined(self, lane: int, envelope: OpenEnvelope, instance: Instance) -> None:
        """Takes an instance that a join has appended (joiner.py)."""
        self._count(envelope, instance)
        self._await_status(lane, envelope)

    def take_duplicate(self, lane: int, envelope: OpenEnvelope) -> None:
        """Takes an instance whose bytes the envelope had already.

        The earlier copy is in the same file, and the status needs the same commit.
        """
        self._metrics.add("instances_duplicate_total")
        self._reservation.publish_bytes()
        self._await_status(lane, envelope)

    def _count(self, envelope: OpenEnvelope, instance: Instance) -> None:
        self._open.instance_added(envelope)
        envelope.conflicts.count(instance, self._metrics)
        if instance.digest is None and not envelope.builder.skip_hashing:
            self._digests.add(envelope, instance)
        self._reservation.publish_bytes()

    def _await_status(self, lane: int, envelope: OpenEnvelope) -> None:
        if envelope.settings.listener.ack == "uploaded":
            self._awaiting.add(envelope.draft.id, lane)
            self._sealer.seal(envelope, "ack = uploaded")
        else:
            self._commit.add(lane, envelope)
