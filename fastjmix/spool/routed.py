"""Tells how an envelope was routed, from its ticket or from the recipe of its draft.

Guaranteed: the files are read at each call, for hooks add tags to a ticket later. Nothing is
written. A file that cannot be read gives UNROUTED: the envelope's own state says what is wrong.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from fastjmix.config.tree import Priority
from fastjmix.errors import DamagedTicket
from fastjmix.spool.recipe import Recipe
from fastjmix.spool.standing import Standpoint
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import Ticket


class Routed(NamedTuple):
    """The rule that routed an envelope, "" for none, its priority, and its tags, with those of
    hooks."""

    rule: str
    priority: Priority
    tags: tuple[str, ...]


UNROUTED: Final = Routed("", "normal", ())


def routed(spool: Spool, envelope_id: str, state: Standpoint) -> Routed:
    """Returns how an envelope in a state was routed."""
    try:
        found: Ticket | Recipe | None
        if state == "building":
            found = Recipe.read(spool.building / envelope_id)
        else:
            found = spool.ticket("outbox" if state == "held" else state, envelope_id)
    except (OSError, DamagedTicket):
        return UNROUTED
    return UNROUTED if found is None else Routed(found.rule, found.priority, found.tags)
