"""Publishes how the ledger does, for /readyz, the page and /metrics; logs a failure once.

The row: state (ok, behind, failing), why, events_behind, bytes (of the file), and the families of
counters.py. "behind" means that events, or envelopes that its events did not reach, are still to be
written; "failing", that they cannot be.
"""

from __future__ import annotations

from typing import Final

from fastjmix import log
from fastjmix.ipc.board_rows import LEDGER
from fastjmix.ipc.state_board import StateBoard
from fastjmix.recorder.counters import Counters

BEHIND_MIN: Final = 2000
"""Events that wait after a batch was written; fewer are no news."""

WHY_CHARS_MAX: Final = 300


class Report:
    """The row of the ledger."""

    def __init__(self, board: StateBoard, counters: Counters) -> None:
        self._board = board
        self._counters = counters
        self._why = ""

    def failed(self, why: str) -> None:
        """Notes that the ledger cannot be written; logs it unless that is known."""
        if not self._why:
            hint = "reception and delivery go on; the ledger catches up from the files afterwards"
            log.get().error("ledger_failing", why=why, hint=hint)
        self._why = why[:WHY_CHARS_MAX]

    def succeeded(self) -> None:
        """Notes that the ledger was written; logs the end of a failure."""
        if self._why:
            log.get().info("ledger_writes_again")
        self._why = ""

    def publish(self, events: int, envelopes: int, size: int) -> None:
        """Replaces the row: events and envelopes that wait, and the bytes of the file."""
        state, why = "ok", ""
        if self._why:
            state, why = "failing", self._why
        elif envelopes:
            state, why = "behind", f"envelopes still to be read from the disk: {envelopes}"
        elif events >= BEHIND_MIN:
            state, why = "behind", f"{events} events wait"
        row = {"state": state, "why": why, "events_behind": events, "bytes": size}
        self._board.publish(LEDGER, {**row, **self._counters.rows()})
