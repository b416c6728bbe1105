"""Leaves envelopes that can no longer be written, or not be sealed, to recovery.

Guaranteed: what an envelope promised is read back from the disk, verified, and sealed
(recovery.py). A draft that promised nothing is deleted.
"""

from __future__ import annotations

from fastjmix import log
from fastjmix.errors import reason
from fastjmix.packer.awaiting_upstream import AwaitingUpstream
from fastjmix.packer.digests import Digests
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.storage_health import StorageHealth


class FailedEnvelopes:
    """The way from the open envelopes of one packer to its recovery."""

    def __init__(
        self,
        envelopes: OpenEnvelopes,
        digests: Digests,
        recoveries: RecoveryQueue,
        health: StorageHealth,
        awaiting: AwaitingUpstream,
    ) -> None:
        self._open = envelopes
        self._digests = digests
        self._recoveries = recoveries
        self._health = health
        self._awaiting = awaiting

    def leave_to_recovery(self, envelope: OpenEnvelope) -> None:
        """Leaves an open envelope to recovery: its file is not to be written again.

        After a failed sync pages may be gone, and what it promised goes to another file. None of
        its instances may be waiting for a commit.
        """
        self._open.remove(envelope)
        self._digests.forget(envelope)
        leftover = envelope.draft.leave()
        if envelope.draft.promised:
            self._recoveries.submit(leftover)
        else:
            envelope.draft.abandon()

    def seal_failed(self, envelope: OpenEnvelope, problem: Exception) -> None:
        """Leaves an envelope whose seal failed to recovery, which seals it from the disk."""
        log.get().error("seal_failed", envelope=envelope.draft.id, why=reason(problem))
        leftover = envelope.draft.leave()
        self._health.count_if_storage_failed(problem)
        self._awaiting.refuse(envelope.draft.id)
        if leftover.suspect:
            self._recoveries.submit(leftover)
        else:
            self._recoveries.submit_later(leftover)
