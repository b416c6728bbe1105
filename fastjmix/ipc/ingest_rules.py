"""Numbers the rules that instances fall under, so that a lane carries one small number.

Wanted: an instance goes by the rules that were in force when its association began, however often
the configuration has been replaced since.
Guaranteed: a number means the same rules for as long as the node runs. The supervisor numbers them,
once for all processes: for each DICOM listener first its own rules, then those of each calling AE
title in its aet_table. A new configuration adds rows behind those that there are (`extended`); a
listener that is as it was, or as it was before, keeps its rows. A listener has a number of its own,
by which its associations are counted, in whatever order the configuration has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fastjmix.config import Builder, Config, DicomListener
from fastjmix.errors import FastjmixError
from fastjmix.routing.router import RouteClass

ROWS_MAX: Final = 65_536
"""Rows that new configurations may add up to, about 10 MB a process. With an aet_table of a
thousand AE titles it can be changed sixty times between two starts."""


class TooManyRules(FastjmixError):
    """A new configuration has more rules than can be added to those that there were."""


@dataclass(frozen=True, slots=True)
class IngestRules:
    """The rules for the instances of one calling AE title (or any) at one listener.

    `other_profile` is `builder` with the other profile, where the listener's route needs it. A
    packer sets `route_class` when it knows an instance (packer/routes.py). `upstreams` has the
    names of the listener's.
    """

    listener: DicomListener
    builder: Builder
    max_associations: int | None
    other_profile: Builder | None = None
    route_class: RouteClass | None = None
    upstreams: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "upstreams", tuple(one.name for one in self.listener.upstreams))

    @property
    def builders(self) -> tuple[Builder, ...]:
        """The settings that envelopes of these instances may have."""
        return (self.builder,) if self.other_profile is None else (self.builder, self.other_profile)


@dataclass(frozen=True, slots=True)
class ListenerRules:
    """The numbers of a listener and its rules: `default` is for any calling AE title that `calling`
    does not name. `number` is the listener's own."""

    listener: DicomListener
    number: int
    default: int
    calling: Mapping[str, int]

    def of(self, calling_ae: str) -> int:
        """Returns the number of the rules for a calling AE title."""
        return self.calling.get(calling_ae, self.default)


@dataclass(frozen=True, slots=True)
class IngestRulesTable:
    """`rows` has every `IngestRules`, by number; `listeners` those of the configuration in force,
    in its order. `former` has the rules of all listeners that there were, those included."""

    rows: tuple[IngestRules, ...] = ()
    listeners: tuple[ListenerRules, ...] = ()
    former: tuple[ListenerRules, ...] = ()

    def extended(self, config: Config) -> IngestRulesTable:
        """Returns the table for a new configuration: every number keeps its meaning. Raises
        TooManyRules where rows are added, and are more than ROWS_MAX then."""
        rows, former = list(self.rows), list(self.former)
        found: list[ListenerRules] = []
        for listener in config.dicom:
            same = (one for one in former if one.listener == listener and one not in found)
            rules = next(same, None)
            if rules is None:
                rules = _added(listener, rows, former, {one.number for one in found})
            found.append(rules)
        if self.rows and len(self.rows) < len(rows) > ROWS_MAX:
            raise TooManyRules(
                f"aet_table: the configurations since the start have {len(rows)} rules for calling"
                f" AE titles together; at most {ROWS_MAX}",
                "Restart fastjmix.",
            )
        return IngestRulesTable(tuple(rows), tuple(found), tuple(former))


def tabulate(config: Config) -> IngestRulesTable:
    """Numbers the rules of the first configuration."""
    return IngestRulesTable().extended(config)


def _added(
    listener: DicomListener,
    rows: list[IngestRules],
    former: list[ListenerRules],
    taken: set[int],
) -> ListenerRules:
    """Adds the rows of a listener, and returns their numbers."""
    known = {one.number for one in former if _place(one.listener) == _place(listener)} - taken
    number = min(known, default=max((one.number for one in former), default=-1) + 1)
    default = len(rows)
    rows.append(IngestRules(listener, listener.builder, None, listener.other_profile))
    calling: dict[str, int] = {}
    for title, entry in (listener.calling or {}).items():
        calling[title] = len(rows)
        limits = entry.max_associations
        rows.append(IngestRules(listener, entry.builder, limits, entry.other_profile))
    rules = ListenerRules(listener, number, default, calling)
    former.append(rules)
    return rules


def _place(listener: DicomListener) -> tuple[str, str, str, int]:
    """Returns what makes it the same listener with other rules."""
    return listener.pipeline, listener.endpoint, listener.host, listener.port
