"""What the receiver knows of one peer, and the bounds that every peer has.

A connection's states are PS3.8's: AWAITING (Sta2) → OPEN (Sta6) → CLOSING (Sta13) → CLOSED (Sta1).
Its lane may linger after that, until the packer has let go of it.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from fastjmix._core import Command, PdvScanner
from fastjmix.config import DicomListener, PeerLimits
from fastjmix.dicom.association import Accepted, Acceptor

GRANT_SECS: Final = 120.0
"""From the last byte of an instance to its status, and for room in a full lane: a disk that takes
longer is not a disk."""

ANSWERS_A_TURN: Final = 64
"""Messages of one peer that are answered at once (C-ECHO, refused instances), or passed over
(C-CANCEL, responses), before the other peers have their turn: about a millisecond."""


class State(Enum):
    """PS3.8 §9.2: Sta2, Sta6, Sta13, Sta1."""

    AWAITING = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


@dataclass(slots=True, eq=False)
class Connection:
    """One peer. `request` is the C-STORE or other request whose answer is due, `prepared` that
    answer if it is Success; `answered` counts the messages answered, or passed over, since others
    were looked at; `stored_at` is when it stored its last instance, or came; `paced_at` and
    `paced_bytes` say where the measuring of its pace began."""

    socket: socket.socket
    host: str
    peer: str
    door: Door
    limits: PeerLimits
    deadline: float
    state: State = State.AWAITING
    received: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    accepted: Accepted | None = None
    scanner: PdvScanner | None = None
    settings: int = 0
    packer: int = -1
    association: int = 0
    request: Command | None = None
    refusal: tuple[int, bytes, int | None] | None = None
    prepared: bytes = b""
    stored: int = 0
    stored_at: float = field(default_factory=time.monotonic)
    refused: int = 0
    stalled: bool = False
    answered: int = 0
    paced_at: float = field(default_factory=time.monotonic)
    paced_bytes: int = 0
    ended: bool = False
    why: str = ""

    def keeps_pace(self, now: float) -> bool:
        """False when a whole dimse_timeout_secs of a message came slower than min_bytes_per_sec.

        Asked at each tick of an open association. Time in which the peer waits for us, or between
        messages, does not count.
        """
        scanner = self.scanner
        if scanner is None or self.stalled or not scanner.hungry:
            self.paced_at, self.paced_bytes = now, 0 if scanner is None else scanner.arrived
            return True
        elapsed = now - self.paced_at
        if elapsed < self.limits.dimse_timeout_secs:
            return True
        came = scanner.arrived - self.paced_bytes
        self.paced_at, self.paced_bytes = now, scanner.arrived
        return came >= self.limits.min_bytes_per_sec * elapsed


@dataclass(slots=True)
class Door:
    """A listening socket, what it accepts, and who has not come in yet (oldest first)."""

    index: int
    socket: socket.socket
    listener: DicomListener
    acceptor: Acceptor
    half_open: dict[Connection, None] = field(default_factory=dict)
    by_host: Counter[str] = field(default_factory=Counter)

    def enter(self, connection: Connection) -> None:
        """A connection is half-open now."""
        self.half_open[connection] = None
        self.by_host[connection.host] += 1

    def leave(self, connection: Connection) -> None:
        """It is not any more, if it was: it has an association, or its last words."""
        if connection in self.half_open:
            del self.half_open[connection]
            self.by_host[connection.host] -= 1
            if not self.by_host[connection.host]:
                del self.by_host[connection.host]

    @property
    def full(self) -> bool:
        """True: somebody must go before another may stand here."""
        return len(self.half_open) >= self.listener.limits.max_half_open

    def gives_way(self, host: str) -> Connection | None:
        """Who gives its place to a newcomer from `host`; None: nobody, the newcomer goes."""
        greediest = max(self.by_host, key=lambda one: self.by_host[one])
        if self.by_host[host] + 1 >= self.by_host[greediest]:
            return None
        return next(one for one in self.half_open if one.host == greediest)
