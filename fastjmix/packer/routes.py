"""Sends the instances of one packer by the rules of their listener's route.

Wanted: an instance is decided on before a byte of it is appended. A successor of this packer, which
takes the instance from its lane again, decides alike.
Guaranteed: a rejected instance gets the rule's status and comment. A discarded one gets Success,
and is counted, logged, and reported to the ledger: only a rule with that word does it. Nothing of
either is kept. A listener without a route costs one test in arrivals.py, and nothing here runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from fastjmix import log
from fastjmix._core import Arrival, Lanes
from fastjmix.dicom.dataset import describe_series
from fastjmix.failpoints import reach
from fastjmix.ipc.events import BoundedEvents, Events
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.ipc.metrics import Metrics
from fastjmix.packer.spilled_instances import SpilledInstances
from fastjmix.packer.statuses import Statuses
from fastjmix.routing.router import DECISIONS_KEPT, RouteClass, Router
from fastjmix.routing.rules import InstanceFacts, Rule
from fastjmix.spool import AssociationFacts

EVENTS_A_SECOND: Final = 200
"""Events that one packer sends of instances that it rejected or discarded: a peer can make 20,000 a
second. The next event has the number of those left out before it."""


@dataclass(frozen=True, slots=True)
class _Caller:
    """The association in a lane: its number, and what rules know of it."""

    association: int
    id: str
    calling_ae: str
    called_ae: str
    peer: str


class Routes:
    """The routes of one packer."""

    def __init__(
        self,
        lanes: Lanes,
        statuses: Statuses,
        spilled: SpilledInstances,
        metrics: Metrics,
        events: Events,
    ) -> None:
        self._lanes = lanes
        self._statuses = statuses
        self._spilled = spilled
        self._metrics = metrics
        self._events = BoundedEvents(events, "decision", EVENTS_A_SECOND)
        self._callers: dict[int, _Caller] = {}
        self._routers: dict[int, Router] = {}
        self._settings: dict[tuple[int, RouteClass], IngestRules] = {}

    def settings_of(self, lane: int, arrival: Arrival, settings: IngestRules) -> IngestRules:
        """Returns the settings of the instance in this lane by its listener's route.

        The head of the instance must be known.
        """
        route_class = self._class_of(lane, arrival, settings)
        known = self._settings.get((arrival.settings, route_class))
        if known is None:
            if len(self._settings) >= DECISIONS_KEPT:
                self._settings.clear()
            known = _with_class(settings, route_class)
            self._settings[arrival.settings, route_class] = known
        return known

    def accepts(self, lane: int, arrival: Arrival, settings: IngestRules) -> bool:
        """Returns True for an instance that is to be kept, by its settings of `settings_of`.

        Another one gets its status here, and what there is of it is deleted.
        """
        rule = refusing_rule(settings)
        if rule is None:
            return True
        self._spilled.forget(lane)
        self._report(lane, arrival, rule)
        reach("packer.decided")
        if rule.action == "reject":
            self._metrics.add("instances_rejected_total")
            self._statuses.give(lane, rule.status, rule.comment.encode("ascii"))
        else:
            self._metrics.add("instances_discarded_total")
            self._statuses.success(lane)
        return False

    def _class_of(self, lane: int, arrival: Arrival, settings: IngestRules) -> RouteClass:
        router = self._routers.get(arrival.settings)
        if router is None:
            assert settings.listener.route is not None
            router = self._routers[arrival.settings] = Router(settings.listener.route)
        caller = self._caller(lane, arrival)
        facts = InstanceFacts(
            caller.calling_ae,
            caller.called_ae,
            caller.peer,
            arrival.sop_class_uid.decode(),
            describe_series(arrival.elements).modality,
            arrival.transfer_syntax_uid.decode(),
        )
        return router.decide(facts)

    def _caller(self, lane: int, arrival: Arrival) -> _Caller:
        known = self._callers.get(lane)
        if known is None or known.association != arrival.association:
            title = self._lanes.calling_ae(lane).decode("latin-1").strip()
            facts = AssociationFacts.load(arrival.association_facts) or AssociationFacts("")
            known = self._callers[lane] = _Caller(
                arrival.association,
                facts.id,
                title,
                facts.called_ae.strip(),
                facts.peer.rpartition(":")[0].strip("[]"),
            )
        return known

    def _report(self, lane: int, arrival: Arrival, rule: Rule) -> None:
        caller = self._caller(lane, arrival)
        instance, study = arrival.sop_instance_uid.decode(), arrival.study_instance_uid.decode()
        log.get().info(
            "instance_discarded" if rule.action == "discard" else "instance_rejected",
            association=arrival.association,
            calling_ae=caller.calling_ae,
            rule=rule.name,
            sop_instance=instance,
            study=log.get().study(study),
        )
        self._events.send(
            association=caller.id,
            rule=rule.name,
            action=rule.action,
            sop_instance_uid=instance,
            sop_class_uid=arrival.sop_class_uid.decode(),
            study_instance_uid=study,
        )


def refusing_rule(settings: IngestRules) -> Rule | None:
    """Returns the rule that rejects or discards instances with these settings; None for none."""
    rule = settings.route_class.rule if settings.route_class is not None else None
    return rule if rule is not None and rule.action != "accept" else None


def _with_class(settings: IngestRules, route_class: RouteClass) -> IngestRules:
    """Returns the settings of a class of instances, with the profile that its rule asks for."""
    rule, builder = route_class.rule, settings.builder
    if rule is not None and rule.profile not in ("", builder.profile):
        assert settings.other_profile is not None  # fastjmix.config makes it for such rules
        builder = settings.other_profile
    return replace(settings, builder=builder, route_class=route_class)
