"""Decides which open envelope is sealed, and when: by its timers, or early to free memory.

Guaranteed: before an envelope is sealed by its timers, the lanes are asked whether an instance of
its study is arriving (senders.py). Before one is sealed early, its instances get their statuses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from fastjmix.packer.group_commit import GroupCommit
from fastjmix.packer.open_envelope import OpenEnvelope
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.sealer import Sealer
from fastjmix.packer.senders import Senders

OPEN_MAX: Final = 512
"""Envelopes of one packer that are open at once; each costs two descriptors, and memory until its
seal. When one more study begins, the envelope that was quiet for longest is sealed."""

HELD_MAX: Final = 100_000
"""Instances in all open envelopes of one packer. Each is in memory until its envelope is sealed:
0.6 KB, or 3 KB where a peer gives each a series with long texts. With more of them, the envelope
that has the most is sealed early, and its study goes on in another. Without this bound 512 open
envelopes could hold five million."""


class SealSchedule:
    """The schedule of one packer."""

    def __init__(
        self, envelopes: OpenEnvelopes, senders: Senders, commit: GroupCommit, sealer: Sealer
    ) -> None:
        self._open = envelopes
        self._senders = senders
        self._commit = commit
        self._sealer = sealer

    def seal_due(self) -> None:
        """Seals the envelopes whose timers have run out."""
        now = time.monotonic()
        if self._open.due <= now:
            self._senders.note_inside()
        for envelope in self._open.take_due(now):
            self._sealer.seal(envelope, envelope.timers.reason)

    def seal_full(self, envelope: OpenEnvelope) -> None:
        """Seals an envelope that cannot take the next instance of its study."""
        self._seal_early(envelope, "full")

    def seal_before_another(self) -> None:
        """Seals the envelope that was quiet for longest, if no more may be open."""
        if len(self._open) < OPEN_MAX:
            return
        self._senders.note_inside()
        quietest = min(
            self._sealable(), key=lambda envelope: envelope.timers.last_arrival, default=None
        )
        if quietest is not None:
            self._seal_early(quietest, "too many are open")

    def seal_largest(self) -> None:
        """Seals the envelope with the most instances, if all together hold too many."""
        if self._open.instances <= HELD_MAX:
            return
        largest = max(self._sealable(), key=lambda envelope: len(envelope.members), default=None)
        if largest is not None:
            self._seal_early(largest, "too many instances are held")

    def seal_left(self) -> None:
        """Seals the envelopes to which no association sends any more, whatever their timers say."""
        if len(self._open):
            self._senders.note_inside()
        for envelope in self._sealable():
            if not envelope.timers.associations:
                self._sealer.seal(envelope, "draining")

    def seal_all(self) -> None:
        """Seals all open envelopes, at the end of the process."""
        for envelope in self._open:
            self._sealer.seal(envelope, "shutting down")

    def _sealable(self) -> Iterator[OpenEnvelope]:
        return (envelope for envelope in self._open if not envelope.joining)

    def _seal_early(self, envelope: OpenEnvelope, why: str) -> None:
        if self._commit.commit_envelope(envelope):
            self._sealer.seal(envelope, why)
