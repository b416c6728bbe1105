"""Names the directories under the storage path, and the place of an envelope in each."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Final, Literal

from fastjmix.config import Config
from fastjmix.errors import DamagedTicket
from fastjmix.spool.root import Root
from fastjmix.spool.ticket import Ticket

State = Literal["outbox", "sent", "rejected"]

SEALED_STATES: Final[tuple[State, ...]] = ("outbox", "sent", "rejected")

SUPERVISOR: Final = "supervisor"
"""The owner of new files until a process takes over (`Spool.take_over`)."""


class Directories:
    """The directories under the storage path: four states of an envelope, and provenance/.

    `durable=False` (durability = "page-cache") leaves out every fsync. `create=False`: `root` is
    never made. `unproved`: the storage could not be tried at the start (prepare.py). `owner` is the
    process in whose name files are made. `patient_data=False`: provenance names no patient.
    """

    def __init__(
        self, root: Path, *, durable: bool = True, create: bool = True, patient_data: bool = True
    ) -> None:
        self.root = root
        self.patient_data = patient_data
        self.durable = durable
        self.create = create
        self.building = root / "building"
        self.outbox = root / "outbox"
        self.sent = root / "sent"
        self.rejected = root / "rejected"
        self.provenance = root / "provenance"
        self.claimed = Root(root)
        self.owner = SUPERVISOR
        self.unproved = False

    def configure(self, config: Config) -> None:
        """Goes by another configuration from now on. A spool that calls fsync goes on to do so:
        what was promised before is in it."""
        self.durable = self.durable or config.any_durable
        self.patient_data = config.ledger.patient_data

    def draft_name(self) -> Path:
        """Returns a path for a draft that does not count yet, or no longer; see take_over."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.draft"

    def path(self, state: State, envelope_id: str) -> Path:
        """Returns the path of an archive, whether or not it is there."""
        return self.root / state / f"{envelope_id}.zip"

    def ticket(self, state: State, envelope_id: str) -> Ticket:
        """Returns a ticket. Raises FileNotFoundError, DamagedTicket, OSError."""
        return Ticket.read(self.root / state / f"{envelope_id}.json", envelope_id)

    def remove_ticket(self, envelope_id: str) -> None:
        """Deletes a ticket in outbox/ that no archive followed; a foreign file stays."""
        with contextlib.suppress(FileNotFoundError, DamagedTicket):
            self.ticket("outbox", envelope_id)
            (self.outbox / f"{envelope_id}.json").unlink()
