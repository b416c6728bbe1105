"""One listening socket: what it accepts, and the socket options of its connections."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from fastjmix.config import DicomListener
from fastjmix.dicom.association import Acceptor, Policy
from fastjmix.ipc.ingest_rules import ListenerRules

ACCEPT_BURST: Final = 64
"""Connections that one listening socket accepts before the others are served: no flood of them
starves anyone."""

CLOSING_MAX: Final = 512
"""Connections that were rejected, aborted or released, and that the peer has not closed (Sta13).
One more, and the one that has waited longest is closed."""

KEEPALIVE_SECS: Final = 30
KEEPALIVE_PROBE_SECS: Final = 10
KEEPALIVE_PROBES: Final = 3
"""A peer whose machine is gone is noticed after 30 + 3 × 10 seconds of silence."""

UNACKNOWLEDGED_MS: Final = 60_000
"""TCP_USER_TIMEOUT: a peer whose TCP acknowledges nothing of a response for so long is gone."""


def set_options(accepted: socket.socket) -> None:
    """Makes a connection non-blocking, without Nagle's algorithm, and lets TCP probe a silent
    peer's machine.
    """
    accepted.setblocking(False)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECS)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_PROBE_SECS)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)


@dataclass(frozen=True, slots=True, eq=False)
class Listener:
    """A listening socket, its part of the configuration, and the acceptor of its associations.

    `rules` are the numbers of its rules, and its own. The acceptor remembers answers: they are
    dropped with it when the configuration is replaced. `outlives`: the socket outlives this
    process, as the one that started fastjmix holds it, too.
    """

    socket: socket.socket
    rules: ListenerRules
    acceptor: Acceptor
    outlives: bool = False

    @property
    def config(self) -> DicomListener:
        """Its part of the configuration."""
        return self.rules.listener

    @property
    def number(self) -> int:
        """Its number, by which its connections and associations are counted."""
        return self.rules.number


def listener_for(
    rules: ListenerRules, listening: socket.socket, *, outlives: bool = False
) -> Listener:
    """Returns the listener for a socket that listens already."""
    config = rules.listener
    policy = Policy(
        ae_title=config.ae_title,
        accept_any_called_aet=config.accept_any_called_aet,
        calling=None if config.calling is None else frozenset(config.calling),
        max_pdu=config.max_pdu,
        enable_store=config.enable_store,
        enable_echo=config.enable_echo,
    )
    return Listener(listening, rules, Acceptor(policy), outlives)
