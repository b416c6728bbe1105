"""The address and port of a listener, out of up to four places where they may be written.

Precedence, for host and port each: the endpoint's options, its connection, its peer's connection,
the network; then the default of its service. Where two places differ, a warning names both.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_net import Bind, Listening, Network, Peer
from fastjmix.config.tables_pipeline import DicomEndpoint, JmixEndpoint

DICOM_DEFAULT: Final = ("0.0.0.0", 11113)  # as Harmony
HTTP_DEFAULT: Final = ("127.0.0.1", 8086)
_ANYWHERE: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Address:
    """The address of one listener, and the network table that it listens on."""

    host: str
    port: int
    network: Entry

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def collides(self, other: Address) -> bool:
        """Returns whether the system cannot give both."""
        same = self.host == other.host or self.host in _ANYWHERE or other.host in _ANYWHERE
        return same and self.port == other.port != 0


def is_loopback(host: str) -> bool:
    """Returns whether this host can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def peer(references: References, entry: Entry) -> Peer | None:
    """Returns the peer of this endpoint; None if it has none, or one with faults."""
    endpoint = entry.value
    if not isinstance(endpoint, DicomEndpoint | JmixEndpoint) or endpoint.peer_ref is None:
        return None
    found = references.find(entry, "peer_ref", "peers", endpoint.peer_ref)
    if found is None or not isinstance(found.value, Peer):
        return None
    if not found.value.enabled:
        references.fault(
            entry,
            "peer_ref",
            f'"{endpoint.peer_ref}", which has enabled = false',
            "a peer that is enabled",
        )
    return found.value


def bind_table(network: Network) -> tuple[str, Bind]:
    """Returns a network's listener table and its name; an empty one if it has none."""
    if network.http is not None:
        return "http", network.http
    return "tcp_config", network.tcp_config or Bind.empty()


def addresses(
    references: References, endpoint: Entry, networks: list[Entry], default: tuple[str, int]
) -> list[Address]:
    """Returns where the endpoint listens: on each of these networks, each address once."""
    found: dict[tuple[str, int], Address] = {}
    for network in networks:
        if isinstance(network.value, Network):
            address = _address(references, endpoint, network, network.value, default)
            found.setdefault((address.host, address.port), address)
    return list(found.values())


def _address(
    references: References,
    entry: Entry,
    network_entry: Entry,
    network: Network,
    default: tuple[str, int],
) -> Address:
    endpoint = entry.value
    assert isinstance(endpoint, DicomEndpoint | JmixEndpoint)
    found_peer = peer(references, entry)
    of_peer = found_peer.connection if found_peer is not None else Listening.empty()
    name, bind = bind_table(network)
    places: list[tuple[str, str | None, int | None]] = [
        (f"{entry.path}.connection", endpoint.connection.host, endpoint.connection.port),
        (f"peers.{endpoint.peer_ref}.connection", of_peer.host, of_peer.port),
        (f"{network_entry.path}.{name}", bind.bind_address, bind.bind_port),
    ]
    if isinstance(endpoint, DicomEndpoint):
        options = endpoint.options
        places.insert(0, (f"{entry.path}.options", options.bind_addr, options.port))
    hosts = [(place, host) for place, host, _ in places if host is not None]
    ports = [(place, str(port)) for place, _, port in places if port is not None]
    host = _first(references, entry, "address", hosts, default[0])
    port = _first(references, entry, "port", ports, str(default[1]))
    return Address(host, int(port), network_entry)


def _first(
    references: References, entry: Entry, noun: str, given: list[tuple[str, str]], default: str
) -> str:
    """Returns the first of these values, each with its place; the default if there is none."""
    if not given:
        return default
    winner, value = given[0]
    for place, other in given[1:]:
        if other != value:
            references.findings.warn(
                f"{entry.path}: the {noun} is {value} ({winner}), not {other} ({place})"
            )
    return value
