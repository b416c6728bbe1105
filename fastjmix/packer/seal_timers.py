"""Decides when an open envelope is to be sealed.

Guaranteed: while an association that sent to the study lasts, its envelope is due `quiet_secs`
after the last instance. When the last of them has ended, it is due `release_grace_secs` after that
end, if that is earlier. For a calling AE title that comes back for its studies (senders.py), it is
due `quiet_secs` after that end. Times are monotonic seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fastjmix.config import Builder


@dataclass(slots=True)
class SealTimers:
    """The timers of one open envelope.

    `associations`: those that sent to it and have not ended. `released_at`: when the last of them
    ended. `awaits_return`: its calling AE title comes back for its studies.
    """

    rules: Builder
    last_arrival: float
    associations: set[int] = field(default_factory=set)
    released_at: float | None = None
    awaits_return: bool = False

    @property
    def due(self) -> float:
        """When the envelope is to be sealed, if nothing more arrives."""
        quiet = self.last_arrival + self.rules.quiet_secs
        if self.released_at is None:
            return quiet
        if self.awaits_return:
            return self.released_at + self.rules.quiet_secs
        return min(quiet, self.released_at + self.rules.release_grace_secs)

    @property
    def reason(self) -> Literal["quiet", "not returned", "released"]:
        """Names the timer that seals the envelope, for the log."""
        if self.released_at is None:
            return "quiet"
        return "not returned" if self.awaits_return else "released"

    def instance_arrived(self, association: int, now: float) -> None:
        """Starts the timers anew."""
        self.associations.add(association)
        self.last_arrival = now
        self.released_at = None

    def association_ended(self, association: int, now: float) -> None:
        """Begins the grace, if this association was the last that sent to the study."""
        self.associations.discard(association)
        if not self.associations and self.released_at is None:
            self.released_at = now
