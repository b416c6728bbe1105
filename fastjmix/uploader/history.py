"""Sends to the ledger what happened to envelopes here: each attempt, and each change of state."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fastjmix.ipc.events import Events
from fastjmix.uploader.outcome import DETAIL_CHARS_MAX, Outcome
from fastjmix.uploader.queue import Waiting
from fastjmix.uploader.target import Target


class History:
    """The events of this process. Nothing here waits or fails."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def attempted(
        self, target: Target, item: Waiting, outcome: Outcome, secs: float, size: int
    ) -> None:
        """Notes an attempt that is over: it took `secs`, and the archive has `size` bytes."""
        self._events.send(
            "attempt",
            envelope=item.id,
            upstream=target.upstream.name,
            began=time.time() - secs,
            seconds=secs,
            bytes=size,
            outcome=outcome.disposition.value,
            status=outcome.status,
            reason=outcome.reason[:DETAIL_CHARS_MAX],
            answer=target.words_of(outcome)[:DETAIL_CHARS_MAX],
        )

    def moved(self, envelope_id: str, state: str, reason: str) -> None:
        """Notes that an envelope is in another state: sent, rejected or gone."""
        reason = reason[:DETAIL_CHARS_MAX]
        self._events.send("moved", envelope=envelope_id, state=state, reason=reason)

    def expired(self, envelope_ids: Iterable[str], reason: str) -> None:
        """Notes that delivered envelopes were deleted."""
        for envelope_id in envelope_ids:
            self.moved(envelope_id, "gone", reason)
