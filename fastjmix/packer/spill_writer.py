"""Writes instances that are larger than their lanes to files, while they arrive.

Guaranteed: the lane is free for more of the instance after each call, also where it is refused: the
rest is then read and dropped, and the status is given when all of it has arrived.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastjmix._core import Intake
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.packer.open_envelope import encrypts
from fastjmix.packer.refusals import Refusals
from fastjmix.packer.reservation import Reservation
from fastjmix.packer.routes import Routes, refusing_rule
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.packer.statuses import Statuses
from fastjmix.packer.storage_health import StorageHealth


class SpillWriter:
    """The writer of one packer."""

    def __init__(
        self,
        intake: Intake,
        rules: Sequence[IngestRules],
        spilled: SpilledInstances,
        health: StorageHealth,
        refusals: Refusals,
        reservation: Reservation,
        statuses: Statuses,
        routes: Routes,
    ) -> None:
        self._intake = intake
        self._rules = rules
        self._spilled = spilled
        self._health = health
        self._refusals = refusals
        self._reservation = reservation
        self._statuses = statuses
        self._routes = routes

    def write(self, lane: int) -> None:
        """Writes the bytes in a lane to the file of their instance."""
        try:
            if lane not in self._spilled:
                self._begin(lane)
            self._spilled.append(lane, self._intake.buffers(lane))
        except Exception as problem:
            self._refusals.refuse_spilled(lane, problem)
        self._reservation.publish()
        self._statuses.release(lane)

    def _begin(self, lane: int) -> None:
        """Makes a file for an instance; none where its route is known not to keep it."""
        arrival = self._intake.arrival(lane)
        settings = self._rules[arrival.settings]
        builders = settings.builders
        if settings.listener.route is not None and arrival.study_instance_uid:  # its head is known
            settings = self._routes.settings_of(lane, arrival, settings)
            builders = (settings.builder,)
        self._spilled.add(lane, encrypts=any(map(encrypts, builders)))
        if refusing_rule(settings) is None:
            self._health.require_running()
            self._spilled.create_file(lane)
