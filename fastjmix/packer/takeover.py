"""Takes over the drafts that earlier processes left, and resumes when the storage has recovered.

Guaranteed: leftovers are taken over before anything new is begun, or, where the storage fails at
the start, as soon as it has recovered. Open drafts that did not come back with the storage are left
to recovery before anything is appended to them.
"""

from __future__ import annotations

from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.recovery_queue import RecoveryQueue
from fastjmix.packer.storage_health import StorageHealth
from fastjmix.spool import Spool


class Takeover:
    """The takeover by the packer `number` of `packers`."""

    def __init__(
        self,
        number: int,
        packers: int,
        name: str,
        spool: Spool,
        health: StorageHealth,
        envelopes: OpenEnvelopes,
        commit: GroupCommit,
        recoveries: RecoveryQueue,
    ) -> None:
        self._number = number
        self._packers = packers
        self._name = name
        self._spool = spool
        self._health = health
        self._open = envelopes
        self._commit = commit
        self._recoveries = recoveries
        self._done = False

    def start(self) -> None:
        """Takes over the leftovers, if the storage is there; else the intake stops."""
        if self._health.check_at_start():
            self._take_over()

    def resume_if_recovered(self) -> None:
        """Probes storage that failed, when that is due; if it has recovered, resumes at once."""
        if not self._health.resume_if_recovered():
            return
        if not self._done:
            self._take_over()
        for envelope in self._open:
            if not envelope.joining and not envelope.draft.is_there():
                self._commit.abandon(envelope)
        self._recoveries.make_due()

    def _take_over(self) -> None:
        self._done = True
        self._spool.take_over(self._name)
        # Copies first: whether one counts is asked while its original is still there.
        found = sorted(self._spool.drafts.leftovers(), key=lambda one: one.recipe.replaces is None)
        for leftover in found:
            if leftover.recipe.packer % self._packers == self._number:
                self._recoveries.submit(leftover)
