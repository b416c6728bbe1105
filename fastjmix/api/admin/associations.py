"""Tells the associations that are open now, and how fast each is.

The speed is that since a look at least SPAN_SECS ago; at the first look that since its begin.
"""

from __future__ import annotations

import time
from typing import Final

from fastjmix.control.node_status import AssociationRow, LaneCounts
from fastjmix.ipc.live_lanes import LiveAssociation, LiveLanes

SPAN_SECS: Final = 2.0

Sample = tuple[float, int]
"""A time of the monotonic clock, and the bytes that had arrived."""


class Associations:
    """The open associations of this node."""

    def __init__(self, live: LiveLanes) -> None:
        self._live = live
        self._samples: dict[int, tuple[Sample, Sample]] = {}

    def as_json(self) -> list[AssociationRow]:
        """Returns a row for each."""
        found = self._live.associations()
        now = time.monotonic()
        self._samples = {one.number: self._sampled(one, now) for one in found}
        return [self._row(one, now) for one in found]

    def lanes_json(self) -> LaneCounts:
        """Returns how many lanes are in use, there, and full."""
        live = self._live
        return {"leased": live.leased, "total": live.total, "stalled": live.stalled}

    def _sampled(self, one: LiveAssociation, now: float) -> tuple[Sample, Sample]:
        """Returns the sample that speed is reckoned from, and the one that replaces it."""
        latest = (now, one.bytes)
        older, newer = self._samples.get(one.number, (latest, latest))
        return (newer, latest) if now - newer[0] >= SPAN_SECS else (older, newer)

    def _row(self, one: LiveAssociation, now: float) -> AssociationRow:
        began = one.facts.get("began")
        return {
            "id": str(one.facts.get("id", "")),
            "number": one.number,
            "calling_ae": str(one.facts.get("calling_ae", "")),
            "called_ae": str(one.facts.get("called_ae", "")),
            "peer": str(one.facts.get("peer", "")),
            "began": began,
            "bytes": one.bytes,
            "instances": one.instances,
            "mb_per_second": round(self._speed(one, now, began) / 1e6, 3),
            "waits_for": one.waits_for,
        }

    def _speed(self, one: LiveAssociation, now: float, began: object) -> float:
        """Returns bytes per second."""
        (at, before), _ = self._samples[one.number]
        if now > at:
            return max(0, one.bytes - before) / (now - at)
        if isinstance(began, int | float):
            return one.bytes / max(time.time() - began, 1e-3)
        return 0.0
