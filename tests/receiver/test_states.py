"""The receiver's states beside pynetdicom's transcription of PS3.8 Table 9-10."""

from __future__ import annotations

import pytest
from pynetdicom.fsm import TRANSITION_TABLE

from fastjmix.receiver.states import TRANSITIONS, Event, State

NEXT = {
    "AE-6": ("Sta3", "Sta13"),
    "AE-7": ("Sta6",),
    "AE-8": ("Sta13",),
    "AR-2": ("Sta8",),
    "AR-5": ("Sta1",),
    "AA-1": ("Sta13",),
    "AA-2": ("Sta1",),
    "AA-3": ("Sta1",),
    "AA-4": ("Sta1",),
    "AA-5": ("Sta1",),
    "AA-8": ("Sta13",),
}
"""PS3.8 Tables 9-6 to 9-9: the states that an action leads to."""

ROWS = [
    (state, event, after)
    for state, following in TRANSITIONS.items()
    for event, after in following.items()
]
OURS = {
    (State.AWAITING_RQ, Event.CLOSE),
    (State.CLOSING, Event.CLOSE),
    # an A-ABORT before there is an association: after a fault of fastjmix
    (State.AWAITING_RQ, Event.ABORT),
}
"""Rows that PS3.8 does not have."""


@pytest.mark.parametrize(("state", "event", "after"), ROWS)
def test_each_row_is_one_of_the_standard(state: State, event: Event, after: State) -> None:
    if (state, event) in OURS:
        assert (event.value, state.value) not in TRANSITION_TABLE
        return
    action = TRANSITION_TABLE[event.value, state.value]
    following = NEXT[action]
    if event is Event.RELEASE_RQ:  # Sta8 is passed at once: the response follows (Evt14)
        assert TRANSITION_TABLE["Evt14", "Sta8"] == "AR-4"
        following = ("Sta13",)
    assert after.value in following


def test_an_acceptor_of_associations_lacks_none_of_the_standards_events() -> None:
    """Those of Sta3 that need a wait cannot occur: fastjmix decides at once."""
    states = {state.value: state for state in State}
    events = {event.value: event for event in Event}
    missing = {
        (event, state)
        for (event, state) in TRANSITION_TABLE
        if state in states and event in events and events[event] not in TRANSITIONS[states[state]]
    }
    assert missing == {
        # to be ignored (AA-6, AA-7, AA-2): upper_layer.discard does not look at PDUs
        *((event, "Sta13") for event in ("Evt6", "Evt12", "Evt16", "Evt19")),
        # as the first PDU: an INVALID_PDU here (associate.py)
        *((event, "Sta2") for event in ("Evt12", "Evt16")),
        # an A-ASSOCIATE-RQ in Sta6: an INVALID_PDU (_core.PdvScanner)
        ("Evt6", "Sta6"),
        *((event, "Sta3") for event in ("Evt6", "Evt12", "Evt16", "Evt19")),
    }


def test_every_state_but_the_last_can_be_left() -> None:
    assert [state for state, following in TRANSITIONS.items() if not following] == [State.CLOSED]
    reached = {after for following in TRANSITIONS.values() for after in following.values()}
    assert reached == set(State) - {State.AWAITING_RQ}
