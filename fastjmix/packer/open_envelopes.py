"""Keeps the open envelopes of one packer: by study, by association, and which is due next.

Wanted: neither the cost of an instance nor that of a turn of the loop grows with the number of open
envelopes.
Guaranteed: `due` is never later than the first envelope's time. It may be earlier, and is looked at
again then. The bytes that the envelopes will still take of the disk are counted as they grow, not
summed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.ipc.metrics import Metrics
from fastjmix.packer.open_envelope import Key, OpenEnvelope, encrypts
from fastjmix.spool import seal_bytes


class OpenEnvelopes:
    """The open envelopes of one packer. Iteration gives those that were open when it began."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_key: dict[Key, OpenEnvelope] = {}
        self._by_study: dict[bytes, set[OpenEnvelope]] = {}
        self._sent_by: dict[int, set[OpenEnvelope]] = {}
        self._plain: dict[OpenEnvelope, int] = {}
        self._plain_bytes = 0
        self.instances = 0
        """Instances in all of them."""
        self.due = math.inf
        """When an envelope may have to be sealed, in monotonic seconds."""

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[OpenEnvelope]:
        return iter(list(self._by_key.values()))

    def get(self, key: Key) -> OpenEnvelope | None:
        """Returns the open envelope of a study (open_envelope.key_of)."""
        return self._by_key.get(key)

    def of_study(self, settings: IngestRules, study_instance_uid: bytes) -> list[OpenEnvelope]:
        """Returns the open envelopes of a study with settings of this row: one, or one for each
        class of a route."""
        return [
            one
            for one in self._by_study.get(study_instance_uid, ())
            if one.settings.listener.endpoint == settings.listener.endpoint
            and one.builder in settings.builders
        ]

    def add(self, envelope: OpenEnvelope) -> None:
        """Adds a new envelope."""
        self._by_key[envelope.key] = envelope
        self._by_study.setdefault(envelope.study_uid.encode(), set()).add(envelope)
        self.due = min(self.due, envelope.due)
        self._metrics.set("envelopes_building", len(self._by_key))

    def remove(self, envelope: OpenEnvelope) -> None:
        """Removes an envelope that is to be sealed, or left to recovery."""
        self._by_key.pop(envelope.key, None)
        study = envelope.study_uid.encode()
        of_study = self._by_study.get(study, set())
        of_study.discard(envelope)
        if not of_study:
            self._by_study.pop(study, None)
        self.instances -= len(envelope.members)
        self._plain_bytes -= self._plain.pop(envelope, 0)
        for association in envelope.timers.associations:
            self._sent_by.get(association, set()).discard(envelope)
        self._metrics.set("envelopes_building", len(self._by_key))

    # -- timers ----------------------------------------------------------------------------------

    def instance_arrived(self, envelope: OpenEnvelope, association: int, now: float) -> None:
        """Starts the timers of an envelope anew: an instance of this association goes into it."""
        envelope.timers.instance_arrived(association, now)
        self._sent_by.setdefault(association, set()).add(envelope)

    def association_ended(self, association: int, now: float) -> None:
        """Notes in all envelopes to which it sent that an association has ended."""
        for envelope in self._sent_by.pop(association, ()):
            envelope.timers.association_ended(association, now)
            self.due = min(self.due, envelope.due)

    def take_due(self, now: float) -> list[OpenEnvelope]:
        """Returns the envelopes that are to be sealed by now, and notes when the next is due."""
        if now < self.due:
            return []
        found = [one for one in self._by_key.values() if one.due <= now]
        later = (one.due for one in self._by_key.values())
        self.due = min((due for due in later if due > now), default=math.inf)
        return found

    # -- the disk --------------------------------------------------------------------------------

    def instance_added(self, envelope: OpenEnvelope) -> None:
        """Counts an instance that was added to an envelope."""
        self.instances += 1
        self.changed(envelope)

    def changed(self, envelope: OpenEnvelope) -> None:
        """Reads the size of an envelope's draft, and when it is due, again."""
        if encrypts(envelope.builder):
            before = self._plain.get(envelope, 0)
            self._plain[envelope] = envelope.draft.end
            self._plain_bytes += envelope.draft.end - before
        self.due = min(self.due, envelope.due)

    @property
    def seal_bytes(self) -> int:
        """Bytes of the disk that their seals may take."""
        return seal_bytes(len(self._by_key), self.instances)

    @property
    def plain_bytes(self) -> int:
        """Bytes of the envelopes that will be encrypted: the disk will hold them twice."""
        return self._plain_bytes
