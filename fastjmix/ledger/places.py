"""Reads from the directories which state each envelope is in: state is place (spool/).

building   building/<id>/
outbox     outbox/<id>.zip
held       the same, with outbox/<id>.hold beside it
sent       sent/<id>.zip
rejected   rejected/<id>.zip
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import Recipe, Ticket
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import TICKET_BYTES_MAX

HOLD: Final = ".hold"
ARCHIVE: Final = ".zip"
DIRECTORIES: Final = ("building", "outbox", "sent", "rejected")
"""In the direction in which envelopes move."""


class Places:
    """The directories under the storage path."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def state(self, envelope_id: str) -> str:
        """Returns the state of an envelope; "gone" when it is nowhere.

        Looks in the direction in which envelopes move, and into outbox/ once more: an envelope may
        be moved back there from rejected/.
        """
        for directory in (*DIRECTORIES, "outbox"):
            name = envelope_id if directory == "building" else f"{envelope_id}{ARCHIVE}"
            if os.path.lexists(self._storage / directory / name):
                return self._outbox(envelope_id) if directory == "outbox" else directory
        return "gone"

    def _outbox(self, envelope_id: str) -> str:
        hold = self._storage / "outbox" / f"{envelope_id}{HOLD}"
        return "held" if os.path.lexists(hold) else "outbox"

    def listed(self) -> dict[str, str]:
        """Returns the state of each envelope by its id. Raises OSError.

        An envelope that moves meanwhile may have its earlier state, or be missing: ask `state`
        before that is believed.
        """
        found: dict[str, str] = {}
        for directory in DIRECTORIES:
            ending = "" if directory == "building" else ARCHIVE
            names = self._names(directory)
            found.update((one, directory) for one in _ids(names, ending))
            if directory == "outbox":
                held = found.keys() & set(_ids(names, HOLD))
                found.update((one, "held") for one in held if found[one] == "outbox")
        return found

    def _names(self, directory: str) -> list[str]:
        with os.scandir(self._storage / directory) as entries:
            return [entry.name for entry in entries]

    def ticket(self, envelope_id: str, state: str) -> Ticket | None:
        """Returns the ticket of a sealed envelope; None where it cannot be read."""
        directory = "outbox" if state == "held" else state
        path = self._storage / directory / f"{envelope_id}.json"
        try:
            return Ticket.load(read_small(path, TICKET_BYTES_MAX), str(path))
        except (OSError, DamagedTicket):
            return None

    def recipe(self, envelope_id: str) -> Recipe | None:
        """Returns the recipe of a draft; None where it cannot be read."""
        try:
            return Recipe.read(self._storage / "building" / envelope_id)
        except OSError:
            return None


def _ids(names: list[str], ending: str) -> Iterator[str]:
    """Yields the ids of the names that are an id with this ending."""
    for name in names:
        stem = name.removesuffix(ending) if ending else name
        if len(stem) + len(ending) == len(name) and is_id(stem):
            yield stem
