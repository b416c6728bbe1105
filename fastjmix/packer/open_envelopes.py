"""Keeps the envelopes that one packer has open: by study, by association, and which is due next.

Wanted: the cost of an instance does not grow with the envelopes that are open, nor that of a turn
of the loop.
Guaranteed: `due` is never later than the first envelope's time (it may be earlier, and is looked at
again then). `too_large` says when they hold too many instances together. The bytes that the
envelopes will still take of the disk are counted as they grow, not summed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

from fastjmix.packer.open_envelope import Packing
from fastjmix.spool import seal_bytes

HELD_MAX: Final = 100_000
"""Instances in all open envelopes of one packer. Each is in memory until its envelope is sealed:
0.6 KB, or 3 KB where a peer gives each a series with long texts. More of them, and the envelope
with the most is sealed early; its study goes on in another. Without this bound 512 open envelopes
could hold five million."""


class OpenEnvelopes:
    """Iterated over, it gives those that were open when that began."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[Any, ...], Packing] = {}
        self._sent_by: dict[int, set[Packing]] = {}
        self._instances = 0
        self._plain: dict[Packing, int] = {}
        self._plain_bytes = 0
        self.due = math.inf
        """When one may have to be sealed, in monotonic seconds."""

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Packing]:
        return iter(list(self._by_key.values()))

    def __contains__(self, packing: Packing) -> bool:
        return self._by_key.get(packing.key) is packing

    def get(self, key: tuple[Any, ...]) -> Packing | None:
        """Returns the open envelope of a study (packing.key_of)."""
        return self._by_key.get(key)

    def add(self, packing: Packing) -> None:
        """Adds a new envelope."""
        self._by_key[packing.key] = packing
        self.due = min(self.due, packing.due())

    def remove(self, packing: Packing) -> None:
        """Removes an envelope that is sealed, or left to recovery. It must not be asked for
        again."""
        self._by_key.pop(packing.key, None)
        self._instances -= len(packing.members)
        self._plain_bytes -= self._plain.pop(packing, 0)
        for association in packing.associations:
            self._sent_by.get(association, set()).discard(packing)

    def quietest(self) -> Packing | None:
        """Returns the one to seal first when no more may be open. One that is being joined cannot
        be.
        """
        idle = (one for one in self._by_key.values() if not one.joining)
        return min(idle, key=lambda one: one.last_arrival, default=None)

    def too_large(self) -> Packing | None:
        """Returns the one to seal when all together hold more than HELD_MAX; None when they do
        not."""
        if self._instances <= HELD_MAX:
            return None
        idle = (one for one in self._by_key.values() if not one.joining)
        return max(idle, key=lambda one: len(one.members), default=None)

    def arriving(self, packing: Packing, association: int, now: float) -> None:
        """Notes that an instance of this association goes into it: its timers begin anew."""
        packing.instance_arrived(association, now)
        self._sent_by.setdefault(association, set()).add(packing)

    def grown(self, packing: Packing, instances: int) -> None:
        """Notes that so many instances were entered."""
        self._instances += instances
        if packing.encrypts:
            before = self._plain.get(packing, 0)
            self._plain[packing] = packing.draft.end
            self._plain_bytes += packing.draft.end - before
        self.due = min(self.due, packing.due())

    def association_ended(self, association: int, now: float) -> None:
        """Notes that no more comes of this association."""
        for packing in self._sent_by.pop(association, ()):
            packing.association_ended(association, now)
            self.due = min(self.due, packing.due())

    def take_due(self, now: float) -> list[Packing]:
        """Takes those to be sealed by now."""
        if now < self.due:
            return []
        found = [one for one in self._by_key.values() if one.due() <= now]
        later = (one.due() for one in self._by_key.values())
        self.due = min((due for due in later if due > now), default=math.inf)
        return found

    # -- what they will still take ---------------------------------------------------------------

    @property
    def seal_bytes(self) -> int:
        """Bytes that their ends may take."""
        return seal_bytes(len(self._by_key), self._instances)

    @property
    def plain_bytes(self) -> int:
        """Bytes of those that are to be encrypted: they will be there twice."""
        return self._plain_bytes
