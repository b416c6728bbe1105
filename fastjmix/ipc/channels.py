"""The descriptors and shared pages that the supervisor hands to each child.

They are inherited over fork(2) and have no names; nothing is left behind in the file system.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from fastjmix.ipc.board_rows import LEDGER, SUPERVISOR, UPLOADER
from fastjmix.ipc.configuration import Inbox
from fastjmix.ipc.drain import DrainPage
from fastjmix.ipc.events import Events
from fastjmix.ipc.live_lanes import LiveLanes
from fastjmix.ipc.metrics import Metrics
from fastjmix.ipc.state_board import StateBoard

BOARD: Final = (UPLOADER, LEDGER, SUPERVISOR)
"""The processes with a row on the board."""


@dataclass(frozen=True, slots=True)
class Channels:
    """A child's channels to the other processes, and its row of metrics.

    `stop` becomes readable when the drain begins (it stays readable: read nothing from it).
    `outbox_wake` is an eventfd: a process that puts an envelope in outbox/ writes it, the uploader
    reads it. `outcomes` maps an origin ("packer-0", "api") to its datagram socket: the uploader
    holds the sending ends of all, every other process the receiving end of its own. A datagram is
    an EnvelopeOutcome (outcome.py). `events` goes to the ledger, `board` holds what processes say
    of themselves. `run` names this run of the supervisor: an association is `<run>-<number>`
    wherever it must be told from those of other runs (`association_id`). `actions` is the api's or
    the uploader's end of the passage for what a person asks for (actions.py); None in the other
    processes. `asking` is the api's end of the passage for what a person asks of the node itself
    (requests.py); None in the other processes. `configuration` is where a new configuration comes
    (configuration.py); None in a process that keeps the one it has. `live` shows the associations
    that are open; only the api has it, for every other process it is empty.
    """

    stop: int
    outbox_wake: int
    outcomes: Mapping[str, socket.socket]
    metrics: Metrics
    events: Events = field(default_factory=Events)
    board: StateBoard = field(default_factory=lambda: StateBoard(BOARD))
    run: str = ""
    actions: socket.socket | None = None
    asking: socket.socket | None = None
    configuration: Inbox | None = None
    live: LiveLanes = field(default_factory=LiveLanes)
    drain: DrainPage = field(default_factory=DrainPage)
    outliving: frozenset[tuple[str, int]] = frozenset()

    def association_id(self, number: int) -> str:
        """Returns the id of an association of this run, which no other run gives."""
        return f"{self.run}-{number}"

    def wake_uploader(self) -> None:
        """Wakes the uploader: an envelope is waiting in outbox/."""
        with contextlib.suppress(BlockingIOError):  # it can count no further
            os.eventfd_write(self.outbox_wake, 1)


def address_of(listening: socket.socket) -> tuple[str, int]:
    """Returns the address and the port at which a socket listens."""
    host, port = listening.getsockname()[:2]
    return host, port
