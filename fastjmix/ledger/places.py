"""Reads from the directories which state each envelope is in: state is place (spool/).

building   building/<id>/
outbox     outbox/<id>.zip
held       the same, with outbox/<id>.hold beside it
sent       sent/<id>.zip
rejected   rejected/<id>.zip
"""

from __future__ import annotations

import os
from typing import Final

from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import Provenance, Recipe, State, Ticket, names
from fastjmix.spool.directories import Directories
from fastjmix.spool.holds import Holds

SEARCHED: Final[tuple[State, ...]] = ("outbox", "sent", "rejected", "outbox")
"""In the direction in which sealed envelopes move. outbox/ comes twice: an envelope may be moved
back there from rejected/."""


class Places:
    """The directories of a storage path, and the records in them."""

    def __init__(self, spool: Directories) -> None:
        self._spool = spool
        self._holds = Holds(spool)

    def state(self, envelope_id: str) -> str:
        """Returns the state of an envelope; "gone" when it is nowhere."""
        if os.path.lexists(self._spool.building / envelope_id):
            return "building"
        for directory in SEARCHED:
            if os.path.lexists(self._spool.path(directory, envelope_id)):
                held = directory == "outbox" and self._holds.is_held(envelope_id)
                return "held" if held else directory
        return "gone"

    def listed(self) -> dict[str, str]:
        """Returns the state of each envelope by its id. Raises OSError.

        An envelope that moves meanwhile may have its earlier state, or be missing: ask `state`
        before that is believed.
        """
        with os.scandir(self._spool.building) as entries:
            found = {entry.name: "building" for entry in entries if is_id(entry.name)}
        for directory in SEARCHED[:-1]:
            with os.scandir(self._spool.root / directory) as entries:
                sealed = {names.sealed(entry.name) for entry in entries} - {None}
            for envelope_id, ending in filter(None, sealed):
                if ending == "zip":
                    held = (envelope_id, "hold") in sealed
                    found[envelope_id] = "held" if held else directory
        return found

    def ticket(self, envelope_id: str, state: str) -> Ticket | None:
        """Returns the ticket of a sealed envelope; None where it cannot be read."""
        for directory in SEARCHED[:-1]:
            if directory == state or (directory, state) == ("outbox", "held"):
                try:
                    return self._spool.ticket(directory, envelope_id)
                except (OSError, DamagedTicket):
                    return None
        return None

    def recipe(self, envelope_id: str) -> Recipe | None:
        """Returns the recipe of a draft; None where it cannot be read."""
        try:
            return Recipe.read(self._spool.building / envelope_id)
        except OSError:
            return None

    def provenance(self, envelope_id: str) -> Provenance | None:
        """Returns the provenance of a sealed envelope; None where it cannot be read."""
        try:
            return Provenance.read(self._spool, envelope_id)
        except (OSError, DamagedTicket):
            return None
