"""Tells how an envelope stands at each of several upstreams, from the files beside it.

Guaranteed: nothing is written. Files that cannot be read give an empty answer: the envelope's own
state says what is wrong.
"""

from __future__ import annotations

from typing import Literal, TypedDict

from fastjmix.errors import DamagedTicket
from fastjmix.spool import ends
from fastjmix.spool.directories import State
from fastjmix.spool.holds import Holds
from fastjmix.spool.standing import Standpoint, refusal_in_words
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import End, moment

AtState = Literal["waiting", "held", "sent", "refused"]


class AtUpstream(TypedDict):
    """An envelope at one upstream, as JSON. `at` is when it ended there, in Unix seconds, None
    before; `reason` why it was refused."""

    upstream: str
    state: AtState
    at: float | None
    reason: str


def at_upstreams(spool: Spool, envelope_id: str, state: Standpoint) -> tuple[AtUpstream, ...]:
    """Returns how an envelope in a state stands at each of its upstreams, in their order; () for
    one upstream, where its state says it, and while it is being packed."""
    if state == "building":
        return ()
    directory: State = "outbox" if state == "held" else state
    try:
        ticket = spool.ticket(directory, envelope_id)
        if len(ticket.upstreams) == 1:
            return ()
        here = directory == "outbox"
        found = ends.read(spool, ticket) if here else ticket.ends
        held = Holds(spool).of(ticket) if here else frozenset()
    except (OSError, DamagedTicket):
        return ()
    return tuple(_at(name, found.get(name), held) for name in ticket.upstreams)


def in_words(stands: tuple[AtUpstream, ...] | list[AtUpstream]) -> str:
    """Returns the upstreams with their states, for people: "a sent, b waiting"."""
    return ", ".join(f"{one['upstream']} {one['state']}" for one in stands)


def _at(name: str, end: End | None, held: frozenset[str]) -> AtUpstream:
    if end is None:
        return {
            "upstream": name,
            "state": "held" if name in held else "waiting",
            "at": None,
            "reason": "",
        }
    ((kind, answer),) = end.items()
    return {
        "upstream": name,
        "state": "sent" if kind == "receipt" else "refused",
        "at": moment(answer.get("at")),
        "reason": refusal_in_words(answer) if kind == "refusal" else "",
    }
