"""Numbers the rules that instances fall under, so that a lane carries one small number.

Receiver and packer number the same frozen configuration in the same way: for each DICOM listener
first its own rules, then those of each calling AE title in its aet_table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastjmix.config import Builder, Config, DicomListener
from fastjmix.routing.router import RouteClass


@dataclass(frozen=True, slots=True)
class IngestRules:
    """The rules for the instances of one calling AE title (or any) at one listener.

    `other_profile` is `builder` with the other profile, where the listener's route needs it. A
    packer sets `route_class` when it knows an instance (packer/routes.py).
    """

    listener: DicomListener
    builder: Builder
    max_associations: int | None
    other_profile: Builder | None = None
    route_class: RouteClass | None = None


@dataclass(frozen=True, slots=True)
class IngestRulesTable:
    """Every `Settings`, by number; and the number for a listener and a calling AE title."""

    rows: tuple[IngestRules, ...]
    _default: tuple[int, ...]
    _calling: Mapping[tuple[int, str], int]

    def number(self, listener: int, calling_ae: str) -> int:
        """Returns the number of the rules for `calling_ae` at the listener with this index."""
        return self._calling.get((listener, calling_ae), self._default[listener])


def tabulate(config: Config) -> IngestRulesTable:
    """Numbers the rules of a configuration."""
    rows: list[IngestRules] = []
    default: list[int] = []
    calling: dict[tuple[int, str], int] = {}
    for index, listener in enumerate(config.dicom):
        default.append(len(rows))
        rows.append(IngestRules(listener, listener.builder, None, listener.other_profile))
        for title, entry in (listener.calling or {}).items():
            calling[index, title] = len(rows)
            limits = entry.max_associations
            rows.append(IngestRules(listener, entry.builder, limits, entry.other_profile))
    return IngestRulesTable(tuple(rows), tuple(default), calling)
