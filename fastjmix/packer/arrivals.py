"""Takes instances that have arrived, each to the envelope of its study.

Guaranteed: the instance gets a status, whatever happens here. A failure of the storage, or a fault
of ours, costs one instance.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastjmix._core import Intake
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.packer.appender import Appender
from fastjmix.packer.envelope_choice import EnvelopeChoice
from fastjmix.packer.joiner import Joiner
from fastjmix.packer.open_envelope import encrypts, key_of
from fastjmix.packer.open_envelopes import OpenEnvelopes
from fastjmix.packer.refusals import Refusals
from fastjmix.packer.routes import Routes
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.packer.storage_health import StorageHealth


class Arrivals:
    """The instances that arrive at one packer."""

    def __init__(
        self,
        intake: Intake,
        rules: Sequence[IngestRules],
        health: StorageHealth,
        envelopes: OpenEnvelopes,
        spilled: SpilledInstances,
        choice: EnvelopeChoice,
        appender: Appender,
        joiner: Joiner,
        refusals: Refusals,
        routes: Routes,
    ) -> None:
        self._intake = intake
        self._rules = rules
        self._health = health
        self._open = envelopes
        self._spilled = spilled
        self._choice = choice
        self._appender = appender
        self._joiner = joiner
        self._refusals = refusals
        self._routes = routes

    def take(self, lane: int) -> None:
        """Takes the instance in this lane, which is whole."""
        arrival = self._intake.arrival(lane)
        settings = self._rules[arrival.settings]
        try:
            if settings.listener.route is not None:
                settings = self._routes.settings_of(lane, arrival, settings)
                if not self._routes.accepts(lane, arrival, settings):
                    return
            current = self._open.get(key_of(settings, arrival.study_instance_uid))
            if current is not None and current.joining:
                current.waiting_lanes.append(lane)
                return
            self._health.require_running()
            if lane in self._spilled:
                self._joiner.begin(lane, arrival, settings, current, self.take)
                return
            size = arrival.size * (2 if encrypts(settings.builder) else 1)
            envelope = self._choice.envelope_for(lane, arrival, settings, current, size)
            self._appender.append(lane, envelope, arrival)
        except Exception as problem:  # a fault of ours, too, costs one instance
            self._refusals.refuse(lane, arrival, problem)
