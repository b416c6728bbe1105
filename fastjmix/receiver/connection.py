"""A connection, and the association on it: what the receiver knows of one peer.

A `Connection` has the socket and the state (states.py); only the loop touches the socket. An
`Association` exists while the state is Sta6. It has no socket, so that messages.py can be driven
without one.
"""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass, field
from typing import Final

from fastjmix._core import Command, Head, PdvScanner
from fastjmix.config import DicomListener, PeerLimits
from fastjmix.dicom.association import Accepted
from fastjmix.receiver.listener import Listener
from fastjmix.receiver.measures import Facts, Measures
from fastjmix.receiver.states import State
from fastjmix.spool import AssociationFacts

GRANT_SECS: Final = 120.0
"""Seconds from the last byte of an instance to its status, and seconds that a full lane may take to
have room again. A disk that takes longer does not work."""

ANSWERS_A_TURN: Final = 64
"""Messages of one peer that are answered at once (C-ECHO, refused instances) or passed over
(C-CANCEL, responses) before the other peers have their turn: about a millisecond."""


NO_FACTS: Final = AssociationFacts("")


@dataclass(slots=True)
class Pace:
    """How fast a message arrives: `since` is when the measurement began, `arrived` how many bytes
    of the association had arrived then."""

    since: float = field(default_factory=time.monotonic)
    arrived: int = 0

    def is_kept(
        self, limits: PeerLimits, scanner: PdvScanner, now: float, *, paused: bool = False
    ) -> bool:
        """Returns False when a whole dimse_timeout_secs of a message came slower than
        min_bytes_per_sec. Called at each tick.

        Time between messages does not count, nor time in which the peer waits for fastjmix: for a
        status, or (`paused`) because it is not read.
        """
        if paused or not scanner.hungry:
            self.since, self.arrived = now, scanner.arrived
            return True
        elapsed = now - self.since
        if elapsed < limits.dimse_timeout_secs:
            return True
        came = scanner.arrived - self.arrived
        self.since, self.arrived = now, scanner.arrived
        return came >= limits.min_bytes_per_sec * elapsed


@dataclass(slots=True, eq=False)
class Association:
    """One association (Sta6), and the message that is at hand.

    `listener` has the settings by which it began: a later configuration does not change them.
    `rules` is the number of its rules and `at` of its listener (ipc/ingest_rules.py), `origin` what
    is kept of it. `packer` has the instance at hand, or had the last one. `request` is the request
    whose response is due; `refusal` is its status, Error Comment and Offending Element where the
    request is refused; `prepared` is its response if the packer gives Success. `head` is that of
    its data set, where it is known. `response` is the response to be sent, `violation` the reason
    (PS3.8 Table 9-26) and the words for an A-ABORT. `stored_at` is when it stored its last
    instance, or began. `answered` counts the messages answered or passed over in this turn.
    """

    number: int
    peer: str
    listener: DicomListener
    accepted: Accepted
    scanner: PdvScanner
    rules: int = 0
    origin: AssociationFacts = NO_FACTS
    at: int = 0
    packer: int = -1
    request: Command | None = None
    refusal: tuple[int, bytes, int | None] | None = None
    prepared: bytes = b""
    head: Head | None = None
    response: bytes = b""
    violation: tuple[int, str] = (0, "")
    stored_at: float = field(default_factory=time.monotonic)
    answered: int = 0
    pace: Pace = field(default_factory=Pace)
    measures: Measures = field(default_factory=Measures)

    @property
    def is_between_messages(self) -> bool:
        """True when no message is arriving, and no response is due."""
        return self.request is None and not self.scanner.midway

    def facts(self) -> Facts:
        """Returns what was measured so far (measures.py)."""
        return self.measures.facts(
            time.monotonic(), self.scanner.largest_pdu, self.listener.max_pdu
        )


@dataclass(slots=True, eq=False)
class Connection:
    """One peer's connection.

    `deadline` is when the wait that the state implies is over. `received` holds the first bytes of
    an A-ASSOCIATE-RQ (Sta2), or (`awaits_header`) of the PROXY header that a proxy sends before it;
    until then `host` and `peer` are the proxy's. `outgoing` holds what the kernel has not taken
    yet. `about` has what the log says of a peer that is ended before it has an association.
    """

    socket: socket.socket
    host: str
    peer: str
    listener: Listener
    limits: PeerLimits
    deadline: float
    state: State = State.AWAITING_RQ
    association: Association | None = None
    received: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    about: dict[str, str | None] = field(default_factory=dict)
    awaits_header: bool = False
