"""Process: sockets + associations → lanes. Never hashes, never writes a file.

Wanted: one process carries all associations at the speed of the network, and one peer's trouble is
its own.
Guaranteed: bytes are received into the association's lane and not moved again; a response leaves
in one send(2) with TCP_NODELAY, and acknowledgements are not delayed (TCP_QUICKACK is re-armed), so
that a sender with Nagle's algorithm on waits for nothing; every wait for a peer has a deadline,
and inside a message a peer must keep a pace (docs/limits.md).
A full lane stops the reading of that socket only.
Still wrong: DICOM over TLS is not offered (put stunnel in front); the C-STORE-RQ's priority is not
looked at.

    connection.py   one peer: its state, and the pace it must keep
    doors.py        who stands before a listening socket
    listeners.py    listening sockets: what is accepted of what comes
    entrance.py     from a connection to an association
    leases.py       the lanes that a receiver holds
    places.py       who gives its place to a newcomer when all are taken
    messages.py     DIMSE: what each event of the PDV scanner asks for
    loop.py         sockets, timers, deadlines
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fastjmix.config import Config
from fastjmix.links import Links
from fastjmix.receiver.loop import Receiver
from fastjmix.wiring import Wiring


def run(
    config: Config,
    number: int,
    wiring: Wiring,
    links: Links,
    sockets: Sequence[socket.socket],
) -> None:
    """The receiver process: returns when it has drained."""
    Receiver(config, number, wiring, links, sockets).run()
