"""The route of a pipeline: its rules (route_rules.py), checked together (route_checks.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastjmix.config import tree
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import DicomEndpoint, RouteMiddleware

if TYPE_CHECKING:
    from fastjmix.routing.rules import Route


@dataclass(frozen=True, slots=True)
class Routed:
    """A pipeline's route, and the upstreams that its rules name."""

    route: Route
    upstreams: tuple[tree.Upstream, ...]


class Routes:
    """The routes of all pipelines."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._found: dict[str, Routed | None] = {}

    def of(self, pipeline: Pipeline) -> Routed | None:
        """Returns the route of a pipeline; None where it has none, or one with faults."""
        name = pipeline.entry.name
        if name not in self._found:
            self._found[name] = self._resolve(pipeline)
        return self._found[name]

    def _resolve(self, pipeline: Pipeline) -> Routed | None:
        found = [
            one
            for one in pipeline.middleware
            if one is not None and isinstance(one.value, RouteMiddleware)
        ]
        if len(found) > 1:
            self._references.fault(
                pipeline.entry, "middleware", f"{len(found)} routes", "one: its rules have an order"
            )
        if not found:
            return None
        endpoints = [one.value for one in pipeline.endpoints if one is not None]
        if not any(isinstance(one, DicomEndpoint) for one in endpoints):
            self._references.findings.warn(
                f"{pipeline.entry.path}: {found[0].path} is without effect: its rules are for"
                " instances that come over C-STORE, and no endpoint here is a dicom_scp"
            )
        return self._routed(found[0], pipeline)

    def _routed(self, entry: Entry, pipeline: Pipeline) -> Routed:
        """Returns the route in a table. Its faults and warnings are noted."""
        from fastjmix.config import route_checks  # only where there is a route
        from fastjmix.config.route_rules import RuleReader
        from fastjmix.routing.rules import Route

        assert isinstance(entry.value, RouteMiddleware)
        default = tuple(one.name for one in pipeline.upstreams(self._references))
        upstreams: dict[str, tree.Upstream] = {}
        rules = []
        for number, given in enumerate(entry.value.options.rules):
            reader = RuleReader(self._references, entry, number, given, default)
            rules.append(reader.rule())
            upstreams |= reader.upstreams
        route_checks.check(self._references, entry, rules)
        return Routed(Route(entry.name, tuple(rules)), tuple(upstreams.values()))
