"""Commits instances in groups: append, fdatasync(2), then statuses, in this order.

Wanted: a sync of the disk costs many instances one wait.
Guaranteed: an instance gets Success only after the fdatasync(2) that covers it
(durability = "fsync"). A commit covers all instances that were appended when it began. When the
sync of an envelope fails, its instances are answered A700, and the file is never written again
(failed_envelopes.py). With durability = "page-cache" the same steps are made without the sync, for
each instance as soon as the kernel has its bytes (`commit_at_once`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from fastjmix import log
from fastjmix.errors import LimitReached, StorageError, StorageGone, storage_error
from fastjmix.failpoints import reach
from fastjmix.ipc.metrics import Histogram
from fastjmix.packer.failed_envelopes import FailedEnvelopes
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.statuses import Statuses
from fastjmix.packer.storage_health import StorageHealth

STORAGE_FAILED: Final = b"the storage failed; send again"


@dataclass(slots=True)
class _Appended:
    """An instance that is appended, and waits for the commit that covers it."""

    lane: int
    envelope: OpenEnvelope


class GroupCommit:
    """The instances of one packer that are appended and have no status."""

    def __init__(
        self,
        statuses: Statuses,
        health: StorageHealth,
        failed_envelopes: FailedEnvelopes,
        commits: Histogram,
    ) -> None:
        """`commits` gets the time of each sync, failed ones among them."""
        self._commits = commits
        self._statuses = statuses
        self._health = health
        self._failed_envelopes = failed_envelopes
        self._appended: list[_Appended] = []

    @property
    def waiting(self) -> bool:
        """True when an instance waits for a commit."""
        return bool(self._appended)

    def add(self, lane: int, envelope: OpenEnvelope) -> None:
        """Adds an instance that was appended, or whose bytes the envelope has already.

        In both cases its bytes are in this envelope's file, and the next commit covers them.
        """
        self._appended.append(_Appended(lane, envelope))

    def commit(self) -> set[OpenEnvelope]:
        """Syncs each envelope once; then gives the statuses of all instances that this covers.

        Returns the envelopes whose sync failed. They are no longer open.
        """
        appended, self._appended = self._appended, []
        failed: set[OpenEnvelope] = set()
        for envelope in dict.fromkeys(one.envelope for one in appended):
            began = time.monotonic()
            try:
                envelope.draft.commit()
            except OSError as problem:
                failed.add(envelope)
                self._count_failure(envelope, storage_error(problem))
            self._commits.observe(time.monotonic() - began)
        reach("packer.synced")
        for one in appended:
            if one.envelope in failed:
                self._statuses.out_of_resources(one.lane, STORAGE_FAILED)
            else:
                self._statuses.success(one.lane)
        reach("packer.granted")
        for envelope in failed:
            self.abandon(envelope)
        return failed

    def commit_envelope(self, envelope: OpenEnvelope) -> bool:
        """Commits, if an instance of this envelope waits for that.

        Returns False when the sync of this envelope failed: it is then no longer open.
        """
        if any(one.envelope is envelope for one in self._appended):
            return envelope not in self.commit()
        return True

    def commit_at_once(self, lane: int, envelope: OpenEnvelope) -> None:
        """Commits one instance that the page cache holds, and gives its status. Raises OSError."""
        envelope.draft.commit()
        self._statuses.success(lane)

    # -- failures --------------------------------------------------------------------------------

    def append_failed(self, envelope: OpenEnvelope, problem: Exception) -> None:
        """Abandons the envelope if its file is not to be written again.

        Abandons it, too, when the memory no longer agrees with the file. Its other instances are
        committed before that.
        """
        failure = storage_error(problem) if isinstance(problem, OSError) else None
        if not envelope.draft.suspect and not isinstance(failure, StorageGone):
            if envelope.draft.end == envelope.end:
                return  # as it was before the append
            if not self.commit_envelope(envelope):
                return  # the commit has abandoned it
        self.abandon(envelope)

    def abandon(self, envelope: OpenEnvelope) -> None:
        """Answers A700 to the instances that wait for this envelope, and leaves it to recovery."""
        waiting = [one.lane for one in self._appended if one.envelope is envelope]
        self._appended = [one for one in self._appended if one.envelope is not envelope]
        for lane in waiting:
            self._statuses.out_of_resources(lane, STORAGE_FAILED)
        self._failed_envelopes.leave_to_recovery(envelope)

    def _count_failure(self, envelope: OpenEnvelope, problem: StorageError) -> None:
        log.get().error("commit_failed", envelope=envelope.draft.id, why=problem.message)
        if not isinstance(problem, LimitReached):  # a full disk, too: its pages are lost
            self._health.count_failure(problem)
