"""What the supervisor hands to each child: descriptors and shared pages, all without names.

Everything here is inherited over fork; nothing is left behind in the file system.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from fastjmix.ipc.metrics import Stats


@dataclass(frozen=True, slots=True)
class Links:
    """A child's links to the others.

    `stop` becomes readable when the drain begins (it stays readable: read nothing from it).
    `outbox_bell` is an eventfd: whoever puts an envelope in outbox/ rings it, the uploader reads.
    `outcomes` maps an origin ("packer-0", "api") to its datagram socket: the uploader holds the
    sending ends of all, every other process the receiving end of its own. A datagram is an
    EnvelopeOutcome (outcome.py).
    """

    stop: int
    outbox_bell: int
    outcomes: Mapping[str, socket.socket]
    stats: Stats

    def ring_outbox(self) -> None:
        """Tells the uploader that an envelope is waiting."""
        with contextlib.suppress(BlockingIOError):  # it has been rung more often than it can count
            os.eventfd_write(self.outbox_bell, 1)
