"""Seals early while the supervisor drains, and says when nothing is left to seal.

Guaranteed: an envelope is sealed as soon as no association sends to it any more, whatever its
timers say. A demand (ipc/drain.py) is answered only after the lanes were looked at since it came:
so the end of an association that the supervisor knows of is known here, too. A draft whose last
attempt failed, and that waits for its next one, keeps nobody waiting: it stays in building/.
"""

from __future__ import annotations

from fastjmix.ipc.drain import DrainPage
from fastjmix.packer.awaiting_upstream import AwaitingUpstream
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.seal_schedule import SealSchedule
from fastjmix.packer.worker import Worker


class Draining:
    """Answers the supervisor's demands of the packer that is `process` on the page. `workers` are
    the threads beside its loop.
    """

    def __init__(
        self,
        page: DrainPage,
        process: int,
        schedule: SealSchedule,
        envelopes: OpenEnvelopes,
        awaiting: AwaitingUpstream,
        workers: tuple[Worker, ...],
    ) -> None:
        self._page = page
        self._process = process
        self._schedule = schedule
        self._open = envelopes
        self._awaiting = awaiting
        self._workers = workers
        self._seen = 0

    def step(self) -> bool:
        """Seals what no association sends to any more; called when nothing has arrived.

        Returns True when the lanes are to be looked at before the loop sleeps.
        """
        if not self._page.draining or self._page.has_answered(self._process):
            return False
        demand = self._page.demand
        self._schedule.seal_left()
        if demand.number != self._seen:
            self._seen = demand.number
            return True
        if not (self._open or self._awaiting or any(one.busy for one in self._workers)):
            self._page.answer(self._process, demand.number)
        return False
