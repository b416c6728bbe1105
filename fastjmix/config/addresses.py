"""The addresses that endpoints listen on: no two listeners on the same one."""

from __future__ import annotations

from fastjmix.config.binding import Address, addresses
from fastjmix.config.pipelines import Pipeline
from fastjmix.config.references import References
from fastjmix.config.table_checks import Entry


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
