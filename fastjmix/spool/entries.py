"""Reads the facts of one envelope from the file beside it: its ticket, or the recipe of its draft.

Guaranteed: nothing is written. An envelope is followed in the direction in which envelopes move.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import names
from fastjmix.spool.recipe import Recipe
from fastjmix.spool.standing import SEARCHED, Directory
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import Ticket, moment


@lru_cache(maxsize=256)
def _same(upstreams: tuple[str, ...]) -> tuple[str, ...]:
    """Returns one value for equal ones."""
    return upstreams


class Entry(NamedTuple):
    """One envelope, in the directory `place`.

    `at` is when it was sealed, or when its draft was begun, in Unix seconds. A draft has no
    `instances` that can be told without reading it. `replaces` is the id of the draft of which it
    is a copy: while that is there, this one does not count.
    """

    id: str
    studies: tuple[str, ...]
    instances: int | None
    size_bytes: int
    at: float
    place: Directory
    calling_ae: str = ""
    upstreams: tuple[str, ...] = ()
    replaces: str | None = None

    @property
    def sealed(self) -> bool:
        """True when it has a ticket that can be read."""
        return self.instances is not None

    @classmethod
    def of_draft(cls, envelope_id: str, recipe: Recipe) -> Entry:
        """Returns the entry of a draft."""
        studies = (recipe.study,) if recipe.study else ()
        begun = moment(recipe.created) or 0.0
        about = recipe.calling_ae, recipe.upstreams, recipe.replaces
        return cls(envelope_id, studies, None, 0, begun, "building", *about)

    @classmethod
    def of_ticket(cls, ticket: Ticket, place: Directory) -> Entry:
        """Returns the entry of a sealed envelope."""
        held = (ticket.studies, ticket.instances, ticket.size_bytes, ticket.sealed_at)
        about = sys.intern(ticket.calling_ae), _same(ticket.upstreams)  # there are few
        return cls(ticket.id, *held, place, *about)

    @classmethod
    def unreadable(cls, envelope_id: str, place: Directory) -> Entry:
        """Returns the entry of an envelope of which nothing else is known."""
        return cls(envelope_id, (), None, 0, 0.0, place)


def find_entry(spool: Spool, envelope_id: str, first: Directory) -> Entry | None:
    """Returns the entry of an envelope; None when it has left. Looks into `first` first.

    Raises OSError, DamagedTicket.
    """
    problem: OSError | DamagedTicket | None = None
    for place in (first, *SEARCHED):
        try:
            if place == "building":
                recipe = Recipe.read(spool.building / envelope_id)
                if recipe is not None:
                    return Entry.of_draft(envelope_id, recipe)
            else:
                return Entry.of_ticket(spool.ticket(place, envelope_id), place)
        except FileNotFoundError:
            continue
        except (OSError, DamagedTicket) as found:
            problem = found
    if problem is not None:
        raise problem
    return None


def archive_id(entry: os.DirEntry[str]) -> str | None:
    """Returns the id of an archive; None for another name."""
    found = names.sealed(entry.name)
    if found is None or found[1] != "zip" or not entry.is_file(follow_symlinks=False):
        return None
    return found[0]


def draft_id(entry: os.DirEntry[str]) -> str | None:
    """Returns the id of a draft; None for another name."""
    return entry.name if is_id(entry.name) and entry.is_dir(follow_symlinks=False) else None


def read_entries(spool: Spool, places: tuple[Directory, ...]) -> Iterator[Entry]:
    """Yields the envelopes in these directories, each once, one whose record is damaged too.

    Raises OSError.
    """
    seen: set[str] = set()
    for place in dict.fromkeys(one for one in SEARCHED if one in places):
        id_of = draft_id if place == "building" else archive_id
        try:
            with os.scandir(spool.root / place) as found:
                ids = [one for one in map(id_of, found) if one is not None]
        except FileNotFoundError:  # it comes and goes with what it holds
            continue
        for envelope_id in ids:
            if envelope_id in seen:
                continue
            seen.add(envelope_id)
            try:
                entry = find_entry(spool, envelope_id, place)
            except (OSError, DamagedTicket):
                entry = Entry.unreadable(envelope_id, place)
            if entry is not None and entry.place in places:
                yield entry
