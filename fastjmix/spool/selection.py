"""Selects envelopes by what a person says of them, and gives a row for each.

Guaranteed: the api and the commands select alike. A state is read when the row is made.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypedDict

from fastjmix.config.tree import Priority
from fastjmix.errors import UsageError
from fastjmix.jmix.ids import canonical_id
from fastjmix.spool.at_upstreams import AtUpstream, at_upstreams
from fastjmix.spool.entries import Entry
from fastjmix.spool.holds import Holds
from fastjmix.spool.routed import UNROUTED, Routed, routed
from fastjmix.spool.standing import Directory, Standpoint, standing
from fastjmix.spool.states import Spool

STATES: Final[tuple[Standpoint, ...]] = ("rejected", "held", "building", "outbox", "sent")
"""All states, those that a person should look at first."""

HERE: Final = STATES[:-1]
"""All but sent: what has not arrived."""


class EnvelopeFacts(TypedDict):
    """An envelope on the disk, as JSON. `instances` is None for one that is being packed.
    `upstream` has the names of all of its upstreams; `at_upstreams` how it stands at each, where
    there are several. `rule`, `priority` and `tags` say how it was routed (routed.py)."""

    id: str
    state: Standpoint
    study: str
    calling_ae: str
    upstream: str
    instances: int | None
    bytes: int
    age_secs: int | None
    reason: str
    at_upstreams: list[AtUpstream]
    rule: str
    priority: Priority
    tags: list[str]


ELIGIBLE: Final[Mapping[str, tuple[Standpoint, ...]]] = {
    "retry": ("outbox",),
    "hold": ("outbox",),
    "release": ("held", "outbox"),
    "requeue": ("rejected",),
    "note-split": ("rejected",),
}
"""The states from which an action (ipc/actions.py) takes envelopes, where no other is named. An
envelope that is on hold for one of several upstreams is in outbox: see Selection.on_hold."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions, all of which hold for an envelope that is selected; None: no condition.

    `ids` are whole. `older_secs` is how long it has been in its state at the least. `on_hold`: for
    one upstream at the least it is on hold.
    """

    states: Collection[Standpoint] = HERE
    ids: Collection[str] | None = None
    study: str | None = None
    calling_ae: str | None = None
    upstream: str | None = None
    older_secs: float | None = None
    on_hold: bool = False

    @property
    def places(self) -> tuple[Directory, ...]:
        """Returns the directories in which such envelopes are."""
        found = (_place(state) for state in self.states)
        return tuple(dict.fromkeys(found))

    def takes(self, entry: Entry) -> bool:
        """Returns whether the conditions hold that need no look at the state."""
        return (
            (self.ids is None or entry.id in self.ids)
            and (self.study is None or self.study in entry.studies)
            and (self.calling_ae is None or self.calling_ae == entry.calling_ae)
            and (self.upstream is None or self.upstream in entry.upstreams)
        )

    def takes_row(self, row: Row) -> bool:
        """Returns whether the others hold."""
        old = self.older_secs is None or (
            row.since > 0 and time.time() - row.since >= self.older_secs
        )
        return row.state in self.states and old


@dataclass(frozen=True, slots=True)
class Row:
    """An envelope as a person sees it. `since` is when it came to its state, in Unix seconds; 0:
    unknown. `at` orders rows: when it was sealed or begun."""

    id: str
    state: Standpoint
    study: str
    calling_ae: str
    upstream: str
    instances: int | None
    size_bytes: int
    since: float
    reason: str
    at: float
    at_upstreams: tuple[AtUpstream, ...] = ()
    routed: Routed = UNROUTED

    def as_json(self) -> EnvelopeFacts:
        """Returns the row of status and lists."""
        return {
            "id": self.id,
            "state": self.state,
            "study": self.study,
            "calling_ae": self.calling_ae,
            "upstream": self.upstream,
            "at_upstreams": list(self.at_upstreams),
            "instances": self.instances,
            "bytes": self.size_bytes,
            "age_secs": max(0, int(time.time() - self.since)) if self.since else None,
            "reason": self.reason,
            "rule": self.routed.rule,
            "priority": self.routed.priority,
            "tags": list(self.routed.tags),
        }


def row_of(spool: Spool, entry: Entry) -> Row | None:
    """Returns the row of an envelope; None when it is gone. Raises OSError."""
    now = standing(spool, entry.id, entry.place)
    if now is None:
        return None
    return Row(
        entry.id,
        now.state,
        entry.studies[0] if entry.studies else "",
        entry.calling_ae,
        ", ".join(entry.upstreams),
        entry.instances,
        now.size_bytes,
        now.since,
        now.reason,
        entry.at,
        at_upstreams(spool, entry.id, now.state) if len(entry.upstreams) > 1 else (),
        routed(spool, entry.id, now.state),
    )


def select(
    spool: Spool,
    entries: Iterable[Entry],
    selection: Selection,
    after: tuple[float, str] | None = None,
) -> Iterator[Row]:
    """Yields the selected envelopes, the oldest first, those behind `after` (`at`, id).

    The ids on hold are listed first, so that most envelopes of another state need no look. Raises
    OSError.
    """
    holds = Holds(spool)
    held = holds.ids() if "outbox" in selection.places else ()
    any_held = holds.any_ids() if selection.on_hold else ()
    for entry in sorted(filter(selection.takes, entries), key=position):
        if after is not None and position(entry) <= after:
            continue
        if entry.place == "outbox":
            state: Standpoint = "held" if entry.id in held else "outbox"
            if state not in selection.states or (selection.on_hold and entry.id not in any_held):
                continue
        row = row_of(spool, entry)
        if row is not None and selection.takes_row(row):
            yield row


def position(one: Entry | Row) -> tuple[float, str]:
    """Returns the place of an envelope in a list."""
    return one.at, one.id


def canonical_ids(words: Iterable[str]) -> frozenset[str]:
    """Returns ids in their one form. Raises UsageError for a word that is none."""
    found = {word: canonical_id(word) for word in words}
    for word, envelope_id in found.items():
        if envelope_id is None:
            raise UsageError(
                f"no id of an envelope: {word[:80]!r}",
                "Give a whole id, as fastjmix outbox list has it.",
            )
    return frozenset(one for one in found.values() if one is not None)


def _place(state: Standpoint) -> Directory:
    return "outbox" if state == "held" else state
