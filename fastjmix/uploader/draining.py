"""Says, while the supervisor drains, when nothing more can be delivered now.

Guaranteed: a demand (ipc/drain.py) is answered only after outbox/ was listed since it came, and
when no upload to an upstream that takes envelopes is under way. An envelope that waits for an
upstream that is paused or held, for its own next attempt, or for a person keeps nobody waiting: it
is in outbox/, where the next start finds it.
"""

from __future__ import annotations

from collections.abc import Callable

from fastjmix.ipc.drain import UPLOADER, DrainPage, Intake
from fastjmix.uploader.target import Targets


class Draining:
    """Answers the supervisor's demands of the uploader. `wake` has `look` called soon."""

    def __init__(self, page: DrainPage, targets: Targets, wake: Callable[[], None]) -> None:
        self._page = page
        self._targets = targets
        self._wake = wake
        self._listed = 0

    @property
    def number(self) -> int:
        """The number of the latest demand: to be read before outbox/ is listed."""
        return self._page.demand.number

    def note_listing(self, number: int) -> None:
        """Notes that outbox/ was listed after the demand of that number had come."""
        self._listed = number
        self._wake()

    def look(self) -> None:
        """Answers the demand when it is met; called when all that may start has started."""
        demand = self._page.demand
        if demand.intake is Intake.OPEN or demand.number != self._listed:
            return
        targets = self._targets.with_retired()
        if not any(one.running and one.availability.available for one in targets):
            self._page.answer(UPLOADER, demand.number)
