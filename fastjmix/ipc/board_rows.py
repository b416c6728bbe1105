"""Names the rows of the state board, and types their fields.

A row that no process has published yet has no fields: its readers get none, or None.
"""

from __future__ import annotations

from typing import Final, Literal, NotRequired, TypedDict

from fastjmix.ipc.state_board import StateBoard

UPLOADER: Final = "uploader"
LEDGER: Final = "ledger"
SUPERVISOR: Final = "supervisor"

Labelled = list[list[str | int]]
"""Counts by labels: [label, …, count]."""


class LastAnswer(TypedDict):
    """The latest answer of an upstream. `at` is Unix seconds, `status` HTTP's; None: none came.
    `answer` is an excerpt of its body."""

    at: float
    status: int | None
    reason: str
    answer: NotRequired[str]


class UpstreamRow(TypedDict):
    """An upstream. `since` and `next_try` are Unix seconds, `next_try` None while it is available.
    `waiting`, `held` and `running` count envelopes. `max_envelope_bytes` was learnt from HTTP 413.
    """

    name: str
    url: str
    state: Literal["available", "paused", "held"]
    since: float
    reason: str
    next_try: float | None
    last_answer: LastAnswer | None
    waiting: int
    held: int
    running: int
    max_envelope_bytes: NotRequired[int | None]


class LedgerRow(TypedDict):
    """The ledger: events that wait, bytes of its file, and the families of recorder/counters.py."""

    state: Literal["ok", "behind", "failing"]
    why: str
    events_behind: int
    bytes: int
    associations: NotRequired[Labelled]
    instances: NotRequired[Labelled]
    attempts: NotRequired[Labelled]
    rule_decisions: NotRequired[Labelled]


class Refused(TypedDict):
    """A configuration that was refused: when, in Unix seconds, and each of its faults."""

    at: float
    faults: list[str]


class Draining(TypedDict):
    """A drain: since when, and when it ends at the latest, in Unix seconds; who began it, and what
    it waits for (supervisor/drain.py)."""

    since: float
    until: float
    by: str
    phase: str


class SupervisorRow(TypedDict):
    """The configuration by which the node goes: its `generation`, since when, in Unix seconds, and
    the keys in it that have no effect before the next start. `refused` is the file as it is now,
    where that was refused; `late` names processes that have not taken the configuration yet.
    `draining` None: no drain."""

    generation: int
    configured_at: float
    refused: Refused | None
    needs_restart: list[str]
    late: list[str]
    draining: Draining | None


def upstream_rows(board: StateBoard) -> list[UpstreamRow]:
    """Returns the upstreams of this node; [] while the uploader has said nothing."""
    rows: list[UpstreamRow] = board.read(UPLOADER).get("upstreams", [])
    return rows


def ledger_row(board: StateBoard) -> LedgerRow | None:
    """Returns the ledger's row; None while there is none."""
    row: LedgerRow | None = board.read(LEDGER) or None  # type: ignore[assignment]
    return row


def supervisor_row(board: StateBoard) -> SupervisorRow | None:
    """Returns the supervisor's row; None while there is none."""
    row: SupervisorRow | None = board.read(SUPERVISOR) or None  # type: ignore[assignment]
    return row
