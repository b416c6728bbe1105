"""Answers instances that could not be stored: with A700, or with C0FF for a fault of ours.

Guaranteed: the cause is in the log, a failure of the storage counts (storage_health.py), and what
there is of a spilled instance is deleted.
"""

from __future__ import annotations

import contextlib

from fastjmix import log
from fastjmix._core import Arrival
from fastjmix.errors import reason
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.packer.statuses import Statuses
from fastjmix.packer.storage_health import StorageHealth


class Refusals:
    """The refusals of one packer."""

    def __init__(
        self, statuses: Statuses, spilled: SpilledInstances, health: StorageHealth
    ) -> None:
        self._statuses = statuses
        self._spilled = spilled
        self._health = health

    def refuse(self, lane: int, arrival: Arrival, problem: Exception) -> None:
        """Refuses the instance in this lane, which could not be appended."""
        of = {
            "association": arrival.association,
            "sop_instance": arrival.sop_instance_uid.decode("latin-1"),
            "study": log.get().study(arrival.study_instance_uid.decode("latin-1")),
        }
        if isinstance(problem, OSError):
            log.get().error("append_failed", why=reason(problem), **of)
            self._spilled.forget(lane)
            self._statuses.out_of_resources(lane)
            self._count(problem)
            return
        log.get().error("append_failed", why=repr(problem), exc_info=problem, **of)
        self._spilled.forget(lane)
        with contextlib.suppress(ValueError):  # it has its status
            self._statuses.internal_error(lane)

    def refuse_spilled(self, lane: int, problem: Exception) -> None:
        """Refuses an instance that is arriving, and whose bytes could not be written away.

        It gets its status when it has arrived.
        """
        log.get().error("spill_failed", why=reason(problem))
        self._count(problem)
        self._spilled.refuse(lane)

    def _count(self, problem: Exception) -> None:
        """Counts nothing while the intake is stopped: that is why the instance was refused."""
        if not self._health.stopped:
            self._health.count_if_storage_failed(problem)
