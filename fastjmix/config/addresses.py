"""The addresses that endpoints listen on: no two listeners on the same one."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from fastjmix.config.binding import Address, addresses
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry

if TYPE_CHECKING:
    from fastjmix.transport.proxy_header import Network


class Addresses:
    """The addresses of all listeners so far."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._taken: list[tuple[Address, str]] = []

    def of(self, pipeline: Pipeline, endpoint: Entry, default: tuple[str, int]) -> list[Address]:
        """Returns where an endpoint of this pipeline listens. A fault: another one does already."""
        networks = [network for network in pipeline.networks if network is not None]
        found = addresses(self._references, endpoint, networks, default)
        by = f"{endpoint.path} of {pipeline.entry.path}"
        for address in found:
            for other, holder in self._taken:
                if address.collides(other):
                    self._references.fault(
                        pipeline.entry,
                        "endpoints",
                        f"{endpoint.path} at {address}, where {holder} listens at {other}",
                        "one listener for an address; an endpoint listens on all networks of its"
                        " pipeline",
                    )
            self._taken.append((address, by))
        return found

    def proxies(self, endpoint: Entry, networks: list[str]) -> tuple[Network, ...]:
        """Returns the networks of an endpoint's proxies. Warns of one that has every address."""
        found = tuple(ipaddress.ip_network(network) for network in networks)
        for network in found:
            if network.prefixlen == 0:
                self._references.findings.warn(
                    f"{endpoint.path}.options.proxy_protocol_from: {network} lets every peer say"
                    " that it is another"
                )
        return found
