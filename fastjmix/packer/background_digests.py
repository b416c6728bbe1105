"""Digests while the loop has nothing else to do, and before it falls too far behind.

Guaranteed: an envelope that cannot be read back is left to recovery, which verifies all of it.
"""

from __future__ import annotations

from fastjmix import log
from fastjmix.errors import reason
from fastjmix.packer.digests import Digests
from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.storage_health import StorageHealth


class BackgroundDigests:
    """The digests of one packer, as its loop makes them."""

    def __init__(self, digests: Digests, commit: GroupCommit, health: StorageHealth) -> None:
        self._digests = digests
        self._commit = commit
        self._health = health

    @property
    def oldest(self) -> OpenEnvelope | None:
        """The envelope to go on with; None when there is nothing to digest."""
        return self._digests.oldest

    def step(self, envelope: OpenEnvelope) -> None:
        """Digests a step of an envelope that waits."""
        try:
            self._digests.step(envelope)
        except Exception as problem:
            log.get().error("digest_failed", envelope=envelope.draft.id, why=reason(problem))
            if isinstance(problem, OSError):
                self._health.count_failure(problem)
            self._commit.abandon(envelope)

    def catch_up(self) -> None:
        """Digests until no more waits than a seal can do at once. Statuses are given first."""
        while (
            self._digests.too_many
            and not self._commit.waiting
            and (envelope := self._digests.oldest) is not None
        ):
            self.step(envelope)
