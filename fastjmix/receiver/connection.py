"""What the receiver knows of one peer, and the bounds that every peer has.

A connection's states are PS3.8's: AWAITING (Sta2) → OPEN (Sta6) → CLOSING (Sta13) → CLOSED (Sta1).
Its lane may linger after that, until the packer has let go of it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from fastjmix._core import Command, PdvScanner
from fastjmix.config import DicomListener
from fastjmix.dicom.association import Accepted, Acceptor, Policy

ARTIM_SECS: Final = 30.0
"""PS3.8 §9.1.5: for a whole A-ASSOCIATE-RQ, and for the close after a release or abort."""

IDLE_ASSOCIATION_SECS: Final = 300.0
"""An open association may be silent between messages for so long: scanners pause between series."""

STALL_SECS: Final = 60.0
"""Inside a message a peer that sends nothing for so long is gone."""

GRANT_SECS: Final = 120.0
"""From the last byte of an instance to its status; a disk that takes longer is not a disk."""

HALF_OPEN_MAX: Final = 512
"""Connections that have not sent their A-ASSOCIATE-RQ yet; one more is closed at once."""


class State(Enum):
    """PS3.8 §9.2: Sta2, Sta6, Sta13, Sta1."""

    AWAITING = auto()
    OPEN = auto()
    CLOSING = auto()
    CLOSED = auto()


@dataclass(slots=True)
class Door:
    """A listening socket and what it accepts."""

    index: int
    socket: socket.socket
    listener: DicomListener
    acceptor: Acceptor


@dataclass(slots=True, eq=False)
class Connection:
    """One peer. `request` is the C-STORE or other request whose answer is due."""

    socket: socket.socket
    peer: str
    door: Door
    deadline: float
    state: State = State.AWAITING
    received: bytearray = field(default_factory=bytearray)
    outgoing: bytearray = field(default_factory=bytearray)
    accepted: Accepted | None = None
    scanner: PdvScanner | None = None
    settings: int = 0
    association: int = 0
    request: Command | None = None
    refusal: tuple[int, bytes, int | None] | None = None
    stored: int = 0
    refused: int = 0
    stalled: bool = False
    ended: bool = False
    why: str = ""


def door_for(index: int, listening: socket.socket, listener: DicomListener) -> Door:
    policy = Policy(
        ae_title=listener.ae_title,
        accept_any_called_aet=listener.accept_any_called_aet,
        calling=None if listener.calling is None else frozenset(listener.calling),
        max_pdu=listener.max_pdu,
        enable_store=listener.enable_store,
        enable_echo=listener.enable_echo,
    )
    return Door(index, listening, listener, Acceptor(policy))
