"""The states of a connection, and which event leads from one to the next (PS3.8 §9.2).

Guaranteed: this table is the only place that decides about a state. It knows no socket, no clock
and no message. `UpperLayer.transition` (upper_layer.py) looks up the next state here, and does what
leaving the one and entering the other ask for.

The table holds the acceptor's part of PS3.8 Table 9-10, without the events that leave the state as
it is (P-DATA, Evt9 and Evt10; whatever arrives in Sta13, AA-6 and AA-7). An event that is missing
under a state cannot occur there; KeyError says that it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class State(Enum):
    """PS3.8 Tables 9-1 to 9-5."""

    CLOSED = "Sta1"
    """There is no connection. One begins in Sta2: accept(2) is Evt5."""

    AWAITING_RQ = "Sta2"
    """The connection is open, and awaits the A-ASSOCIATE-RQ. It is half-open."""

    NEGOTIATING = "Sta3"
    """The A-ASSOCIATE-RQ has arrived; fastjmix decides about it, without a wait."""

    OPEN = "Sta6"
    """The association is established and ready for data transfer."""

    CLOSING = "Sta13"
    """The last PDU has been sent; the peer is to close the connection."""


class Event(Enum):
    """PS3.8 Table 9-10, but for the last."""

    ASSOCIATE_RQ = "Evt6"
    """A whole and valid A-ASSOCIATE-RQ has arrived."""

    ACCEPT = "Evt7"
    """The association is accepted (A-ASSOCIATE response primitive)."""

    REJECT = "Evt8"
    """The association is rejected (A-ASSOCIATE response primitive)."""

    RELEASE_RQ = "Evt12"
    """An A-RELEASE-RQ has arrived, and the A-RELEASE-RP has been sent (Evt14, by way of Sta8)."""

    ABORT = "Evt15"
    """fastjmix ends the association (A-ABORT request primitive)."""

    ABORT_RECEIVED = "Evt16"
    """An A-ABORT has arrived."""

    TRANSPORT_CLOSED = "Evt17"
    """The peer has closed the connection, or it is lost."""

    ARTIM_EXPIRED = "Evt18"
    """The ARTIM timer (acse_timeout_secs) has expired."""

    INVALID_PDU = "Evt19"
    """The peer has broken PS3.8: an unrecognized or invalid PDU, or one at the wrong time."""

    CLOSE = "local"
    """fastjmix closes a connection without an association: it stops, or needs the place."""


TRANSITIONS: Final[Mapping[State, Mapping[Event, State]]] = {
    State.CLOSED: {},
    State.AWAITING_RQ: {
        Event.ASSOCIATE_RQ: State.NEGOTIATING,  # AE-6: stop ARTIM
        Event.ABORT: State.CLOSING,  # AA-1: send A-ABORT, start ARTIM
        Event.TRANSPORT_CLOSED: State.CLOSED,  # AA-5: stop ARTIM
        Event.ARTIM_EXPIRED: State.CLOSED,  # AA-2: close the connection
        Event.INVALID_PDU: State.CLOSING,  # AA-1
        Event.CLOSE: State.CLOSED,
    },
    State.NEGOTIATING: {
        Event.ACCEPT: State.OPEN,  # AE-7: send A-ASSOCIATE-AC
        Event.REJECT: State.CLOSING,  # AE-8: send A-ASSOCIATE-RJ, start ARTIM
        Event.ABORT: State.CLOSING,  # AA-1
        Event.TRANSPORT_CLOSED: State.CLOSED,  # AA-4
    },
    State.OPEN: {
        Event.RELEASE_RQ: State.CLOSING,  # AR-2, AR-4: send A-RELEASE-RP, start ARTIM
        Event.ABORT: State.CLOSING,  # AA-1
        Event.ABORT_RECEIVED: State.CLOSED,  # AA-3: close the connection
        Event.TRANSPORT_CLOSED: State.CLOSED,  # AA-4
        Event.INVALID_PDU: State.CLOSING,  # AA-8: send A-ABORT, start ARTIM
    },
    State.CLOSING: {
        Event.TRANSPORT_CLOSED: State.CLOSED,  # AR-5: stop ARTIM
        Event.ARTIM_EXPIRED: State.CLOSED,  # AA-2
        Event.CLOSE: State.CLOSED,
    },
}
