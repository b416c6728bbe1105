"""Chooses envelopes by ids or by conditions, from the directories of a node, running or not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fastjmix.errors import UsageError
from fastjmix.spool.entries import read_entries
from fastjmix.spool.selection import Row, Selection, canonical_ids, select
from fastjmix.spool.standing import Standpoint
from fastjmix.tools.node_storage import opened
from fastjmix.tools.plain_text import seconds_of


@dataclass(frozen=True, slots=True)
class Choice:
    """The ids or conditions that a person has typed. `older` is an age such as 15m; `upstream` may
    stand beside ids: an action is then for that one of several upstreams."""

    ids: tuple[str, ...] = ()
    study: str | None = None
    ae: str | None = None
    upstream: str | None = None
    older: str | None = None
    every: bool = False
    rejected: bool = False
    held: bool = False

    @property
    def conditions(self) -> bool:
        """True when there is a condition."""
        texts = (self.study, self.ae, self.upstream, self.older)
        return self.rejected or self.held or any(one is not None for one in texts)

    def require_clear(self) -> None:
        """Raises UsageError for a choice of nothing, or of two kinds: no envelope is changed by
        mistake."""
        others = replace(self, upstream=None).conditions
        if self.ids and (others or self.every):
            raise UsageError("either ids, or conditions", "Leave out the one or the other.")
        if not (self.ids or self.conditions or self.every):
            raise UsageError(
                "which envelopes?", "Give ids, --study, --ae, --upstream, --older, or --all."
            )

    def selection(self, states: tuple[Standpoint, ...]) -> Selection:
        """Returns the selection among envelopes in these states. Raises UsageError where the
        choice asks for others."""
        wanted: list[Standpoint] = []
        if self.rejected:
            wanted.append("rejected")
        if self.held:
            wanted.append("held")
        if other := [one for one in wanted if one not in states]:
            raise UsageError(f"this is not for envelopes that are {other[0]}", "See --help.")
        return Selection(
            states=tuple(wanted) or states,
            ids=canonical_ids(self.ids) if self.ids else None,
            study=self.study,
            calling_ae=self.ae,
            upstream=self.upstream,
            older_secs=None if self.older is None else seconds_of(self.older),
        )


def chosen(
    storage: Path, choice: Choice, states: tuple[Standpoint, ...], *, on_hold: bool = False
) -> list[Row]:
    """Returns the envelopes of a choice, the oldest first. Raises UsageError, SpoolError."""
    selection = replace(choice.selection(states), on_hold=on_hold)
    with opened(storage) as spool:
        entries = read_entries(spool, selection.places)
        return list(select(spool, entries, selection))
