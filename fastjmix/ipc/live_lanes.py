"""Shows the associations that are open now, to a process that has no part in them.

Guaranteed: nothing is written to the lanes, and no receiver or packer waits for a look. Only the
control blocks of the lanes are mapped, not the bytes that are under way. The values of one
association were read together; it may have ended since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from fastjmix._core import WAITS_FOR_PACKER, Lanes


class LiveAssociation(NamedTuple):
    """One open association.

    `number` is that of the log, `facts` what spool/association_facts.py says of it ({} where it
    cannot be read), `bytes` all that has arrived, `instances` those that have their response.
    `waits_for` is "peer", "packer" (its lane is full) or "disk" (an instance is whole and has no
    status; with `ack = "uploaded"` it is the upstream that is awaited).
    """

    lane: int
    number: int
    facts: Mapping[str, Any]
    bytes: int
    instances: int
    waits_for: str


class LiveLanes:
    """The lanes of this node, to be looked at; without `lanes` there are none."""

    def __init__(self, lanes: Lanes | None = None) -> None:
        self._lanes = lanes

    @property
    def total(self) -> int:
        """The number of lanes: so many associations can be open at once."""
        return 0 if self._lanes is None else self._lanes.count

    @property
    def leased(self) -> int:
        """The number of lanes that are in use."""
        return 0 if self._lanes is None else self._lanes.leased

    def associations(self) -> list[LiveAssociation]:
        """Returns the associations that are open now: some 100 µs for 64 of them."""
        found = [] if self._lanes is None else self._lanes.live()
        return [
            LiveAssociation(lane, number, _decoded(facts), size, instances, waits_for)
            for lane, number, facts, size, instances, waits_for in found
        ]

    @property
    def stalled(self) -> int:
        """The number of lanes that are full: their sockets are not read."""
        return sum(one.waits_for == WAITS_FOR_PACKER for one in self.associations())


def _decoded(facts: bytes) -> Mapping[str, Any]:
    with contextlib.suppress(orjson.JSONDecodeError):
        found = orjson.loads(facts)
        if isinstance(found, dict):
            return found
    return {}
