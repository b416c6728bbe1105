"""The DICOM listeners of a pipeline: its dicom_scp endpoints on its networks.

Guaranteed: a listener has a jmix_builder, an upstream and an address of its own; a lane holds
several of its largest PDUs. All listeners together have as many associations as lanes can be
numbered, or fewer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fastjmix.config import tables_pipeline, tree
from fastjmix.config.addresses import Addresses
from fastjmix.config.binding import DICOM_DEFAULT, Address, bind_table
from fastjmix.config.builders import Builders
from fastjmix.config.calling import calling_aes
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.routes import Routed, Routes
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Network
from fastjmix.config.tables_pipeline import DicomEndpoint


class DicomListeners:
    """Resolves the dicom_scp endpoints of pipelines."""

    def __init__(
        self,
        references: References,
        builders: Builders,
        addresses: Addresses,
        routes: Routes,
        lane_bytes: int,
    ) -> None:
        self._references = references
        self._builders = builders
        self._addresses = addresses
        self._routes = routes
        self._lane_bytes = lane_bytes
        self._associations: list[tuple[Entry, int]] = []  # of each listener, with faults or without

    def of(self, pipeline: Pipeline) -> Iterator[tree.DicomListener]:
        """Yields a listener for each endpoint and address, as far as they have no faults."""
        routed = self._routes.of(pipeline)
        found = [_with_route(one, routed) for one in self._of(pipeline, _profiles(routed))]
        if routed is not None:
            from fastjmix.config.route_checks import warn_of_callers  # only where there is a route

            warn_of_callers(self._references, pipeline, routed.route, found)
        yield from found

    def _of(self, pipeline: Pipeline, profiles: frozenset[str]) -> Iterator[tree.DicomListener]:
        """Yields the same without the route. `profiles`: those that its rules ask for."""
        for entry in pipeline.endpoints:
            if entry is None or not isinstance(entry.value, DicomEndpoint):
                continue
            rules = self._builders.rules(pipeline, profiles)
            to = pipeline.upstreams(self._references)
            if not pipeline.backends:
                allowed = 'the name of a [backends.*] with service = "jmix_backend"'
                self._references.fault(pipeline.entry, "backends", "none", allowed)
            self._refuse_tls(pipeline, entry)
            addresses = self._addresses.of(pipeline, entry, DICOM_DEFAULT)
            most = entry.value.options.max_associations
            self._associations += [(entry, most)] * len(addresses)
            proxies = self._addresses.proxies(entry, entry.value.options.proxy_protocol_from)
            calling = calling_aes(self._references, entry, entry.value.options, rules)
            for address in addresses:
                if rules is not None and to:
                    self._check_max_pdu(entry, entry.value.options.max_pdu)
                    made = _listener(pipeline, entry, address, rules.builder, to, calling)
                    yield dataclasses.replace(
                        made, proxies=proxies, other_profile=rules.other_profile
                    )

    def check_associations(self) -> None:
        """Notes a fault for more associations than lanes can be numbered, at the endpoint with
        which it is too many. Called after the last listener."""
        most, total = tables_pipeline.MOST_ASSOCIATIONS, sum(n for _, n in self._associations)
        before = 0
        for entry, own in self._associations:
            before += own
            if before > most:
                listeners = f"the {len(self._associations)} DICOM listeners have {total} together"
                allowed = f"{most} or fewer for all DICOM listeners together: each needs a lane"
                found = f"{own}; {listeners}"
                self._references.fault(entry, "options.max_associations", found, allowed)
                return

    def _check_max_pdu(self, entry: Entry, max_pdu: int) -> None:
        most = self._lane_bytes // tables_pipeline.LEAST_PDUS_A_LANE
        if max_pdu > most:
            size = self._lane_bytes
            allowed = f"with lane_bytes = {size}: {most} or less, so that a lane holds several"
            self._references.fault(entry, "options.max_pdu", str(max_pdu), allowed)
        usual = tables_pipeline.USUAL_MAX_PDU
        if max_pdu not in usual:
            warning = f"{max_pdu} is accepted, and unusual ({usual[0]} to {usual[-1]})"
            self._references.findings.warn(f"{entry.path}.options.max_pdu: {warning}")

    def _refuse_tls(self, pipeline: Pipeline, endpoint: Entry) -> None:
        for entry in pipeline.networks:
            if entry is None or not isinstance(entry.value, Network):
                continue
            name, bind = bind_table(entry.value)
            for key in ("cert_path", "key_path"):
                if getattr(bind, key) is not None:
                    self._references.fault(
                        entry,
                        f"{name}.{key}",
                        f"a TLS listener, and {endpoint.path} speaks DICOM on this network",
                        "no TLS for DICOM: it is not offered yet; put stunnel in front, and give"
                        " the query API a pipeline and a network of its own",
                    )


def _listener(
    pipeline: Pipeline,
    entry: Entry,
    address: Address,
    builder: tree.Builder,
    to: tuple[tree.Upstream, ...],
    calling: dict[str, tree.CallingAe] | None,
) -> tree.DicomListener:
    assert isinstance(entry.value, DicomEndpoint)
    options = entry.value.options
    return tree.DicomListener(
        pipeline=pipeline.entry.name,
        endpoint=entry.name,
        host=address.host,
        port=address.port,
        ae_title=options.local_aet,
        max_pdu=options.max_pdu,
        enable_store=options.enable_store,
        enable_echo=options.enable_echo,
        max_associations=options.max_associations,
        ack=options.ack,
        accept_any_called_aet=options.accept_any_called_aet,
        tolerate_uids=options.tolerate_uids,
        accept_malformed=options.accept_malformed,
        limits=_limits(options),
        calling=calling,
        builder=builder,
        upstreams=to,
    )


def _profiles(routed: Routed | None) -> frozenset[str]:
    rules = routed.route.rules if routed is not None else ()
    return frozenset(one.profile for one in rules if one.profile)


def _with_route(listener: tree.DicomListener, routed: Routed | None) -> tree.DicomListener:
    if routed is None:
        return listener
    own = {one.name for one in listener.upstreams}
    others = tuple(one for one in routed.upstreams if one.name not in own)
    return dataclasses.replace(listener, route=routed.route, routed=others)


def _limits(options: tables_pipeline.DicomOptions) -> tree.PeerLimits:
    names = (field.name for field in dataclasses.fields(tree.PeerLimits))
    return tree.PeerLimits(**{name: getattr(options, name) for name in names})
