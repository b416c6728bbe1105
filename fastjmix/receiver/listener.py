"""Doors: listening sockets, who stands before them, and what is said about strangers.

Wanted: whoever knocks without ever coming in costs little, and keeps nobody else out.
Guaranteed: no more than max_half_open connections without an association at a door, and when they
are that many, an address that has fewer of them than another gets its place; no more than
CLOSING_MAX that were told goodbye and have not closed; no more than NOTICES_A_SECOND lines about
peers without an association.
Still wrong: behind stunnel or NAT all peers have one address, and share one place.
"""

from __future__ import annotations

import socket
import time
from typing import Any, Final

from fastjmix import log
from fastjmix.config import DicomListener
from fastjmix.dicom.association import Acceptor, Policy
from fastjmix.receiver.connection import Door

ACCEPT_BURST: Final = 64
"""Connections taken from a door before the others are looked at: a flood of them starves nobody."""

CLOSING_MAX: Final = 512
"""Connections that were rejected, aborted or released and wait for the peer's close; one more, and
the one that has waited longest is closed."""

NOTICES_A_SECOND: Final = 50
"""Lines of the log about rejected and aborted peers; what is more is counted in one line."""

KEEPALIVE_SECS: Final = 30
KEEPALIVE_PROBE_SECS: Final = 10
KEEPALIVE_PROBES: Final = 3
"""A peer that vanished without a word is noticed after 30 + 3 × 10 seconds of silence."""

UNACKNOWLEDGED_MS: Final = 60_000
"""TCP_USER_TIMEOUT: a peer whose TCP does not take a response for so long is gone."""


def teach_manners(accepted: socket.socket) -> None:
    """Never blocks, never gathers, and notices when the peer's machine is gone."""
    accepted.setblocking(False)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECS)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_PROBE_SECS)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


def door_for(index: int, listening: socket.socket, listener: DicomListener) -> Door:
    """A door for a listening socket that is open already."""
    policy = Policy(
        ae_title=listener.ae_title,
        accept_any_called_aet=listener.accept_any_called_aet,
        calling=None if listener.calling is None else frozenset(listener.calling),
        max_pdu=listener.max_pdu,
        enable_store=listener.enable_store,
        enable_echo=listener.enable_echo,
    )
    return Door(index, listening, listener, Acceptor(policy))


class Notices:
    """Lines of the log about peers that have no association: so many a second."""

    def __init__(self) -> None:
        self._log = log.get()
        self._left = NOTICES_A_SECOND
        self._since = time.monotonic()
        self.untold = 0

    def give(self, event: str, **pairs: Any) -> None:
        """One line, if there is one left for this second."""
        if self._left > 0:
            self._left -= 1
            self._log.warning(event, **pairs)
        else:
            self.untold += 1

    def tick(self, now: float) -> None:
        """Begins the next second, with a line about what was not told in the last."""
        if now - self._since < 1.0:
            return
        if self.untold:
            self._log.warning("peers_not_listed", count=self.untold)
        self._left, self._since, self.untold = NOTICES_A_SECOND, now, 0
