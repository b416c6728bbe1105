"""The pipelines, with the names in them looked up; and checks of the networks they listen on."""

from __future__ import annotations

import dataclasses

from fastjmix.config import tree
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Network
from fastjmix.config.tables_pipeline import Pipeline as PipelineTable
from fastjmix.config.upstreams import upstream


@dataclasses.dataclass(frozen=True, slots=True)
class Pipeline:
    """The tables that a pipeline names. None: a name that leads nowhere, or to a table with
    faults."""

    entry: Entry
    networks: list[Entry | None]
    endpoints: list[Entry | None]
    middleware: list[Entry | None]
    backends: list[Entry | None]

    def upstreams(self, references: References) -> tuple[tree.Upstream, ...]:
        """Returns the upstreams of the backends, in their order; without those that, with a fault,
        cannot be used."""
        found = (upstream(references, one) for one in self.backends if one is not None)
        return tuple(one for one in found if one is not None)


def pipelines(references: References) -> list[Pipeline]:
    """Returns the pipelines without faults of their own. A fault: there is no pipeline."""
    entries = references.tables.family("pipelines").values()
    if not entries:
        main = references.tables.main
        references.findings.fault(main, "", "pipelines", "none", "one or more [pipelines.*]")
    return [one for entry in entries if (one := _pipeline(references, entry)) is not None]


def _pipeline(references: References, entry: Entry) -> Pipeline | None:
    table = entry.value
    if not isinstance(table, PipelineTable):
        return None
    for index, name in enumerate(table.backends):
        if name in table.backends[:index]:
            allowed = "each name once: an envelope goes to each of them once"
            references.fault(entry, f"backends[{index}]", f'"{name}" a second time', allowed)
    chain = table.middleware
    left = "middleware.left" if "right" in chain.model_fields_set else "middleware"
    return Pipeline(
        entry,
        networks=_all(references, entry, "networks", "network", table.networks),
        endpoints=_all(references, entry, "endpoints", "endpoints", table.endpoints),
        middleware=[
            *_all(references, entry, left, "middleware", chain.left),
            *_all(references, entry, "middleware.right", "middleware", chain.right),
        ],
        backends=_all(references, entry, "backends", "backends", table.backends),
    )


def _all(
    references: References, entry: Entry, key: str, family: str, names: list[str]
) -> list[Entry | None]:
    return [
        references.find(entry, f"{key}[{index}]", family, name) for index, name in enumerate(names)
    ]


def check_networks(references: References) -> None:
    """Warns of WireGuard, and notes a fault where a network has its listener's table twice."""
    for entry in references.tables.family("network").values():
        if not isinstance(entry.value, Network):
            continue
        if entry.value.enable_wireguard:
            warning = "WireGuard is not offered here: the address is bound as it is"
            references.findings.warn(f"{entry.path}.enable_wireguard: {warning}")
        if entry.value.http is not None and entry.value.tcp_config is not None:
            allowed = "one of http and tcp_config: they are two names of one table"
            references.fault(entry, "http", "a table beside tcp_config", allowed)
