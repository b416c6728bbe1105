"""Names the directories under the storage path, and where an envelope is in each."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Final, Literal

from fastjmix.spool.root import Root
from fastjmix.spool.ticket import Ticket

State = Literal["outbox", "sent", "rejected"]

SEALED_STATES: Final[tuple[State, ...]] = ("outbox", "sent", "rejected")

SUPERVISOR: Final = "supervisor"
"""Owner of the names of a process that has taken over from nobody."""


class Directories:
    """The four directories under the storage path.

    `durable=False` (durability = "page-cache") leaves out every fsync. `create=False`: `root` is
    never made. `unproved`: something had run out when it was prepared (prepare.py). `owner` is the
    process in whose name files are made.
    """

    def __init__(self, root: Path, *, durable: bool = True, create: bool = True) -> None:
        self.root = root
        self.durable = durable
        self.create = create
        self.building = root / "building"
        self.outbox = root / "outbox"
        self.sent = root / "sent"
        self.rejected = root / "rejected"
        self.claimed = Root(root)
        self.owner = SUPERVISOR
        self.unproved = False

    def draft_name(self) -> Path:
        """Returns where a draft is before it counts, and after it counts no more: see
        `Spool.take_over`."""
        return self.building / f"{self.owner}-{uuid.uuid4()}.draft"

    def path(self, state: State, envelope_id: str) -> Path:
        """Where the archive is, or would be."""
        return self.root / state / f"{envelope_id}.zip"

    def ticket(self, state: State, envelope_id: str) -> Ticket:
        """Raises FileNotFoundError, DamagedTicket, OSError."""
        return Ticket.read(self.root / state / f"{envelope_id}.json", envelope_id)
