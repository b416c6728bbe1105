"""Publishes how the node is configured: the supervisor's row of the board (ipc/board_rows.py)."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fastjmix.ipc.board_rows import SUPERVISOR, Draining, SupervisorRow
from fastjmix.ipc.requests import bounded
from fastjmix.ipc.state_board import StateBoard
from fastjmix.supervisor.generations import Generation


class BoardRow:
    """The supervisor's row. Each change is published at once."""

    def __init__(self, board: StateBoard, first: Generation) -> None:
        self._board = board
        self._row: SupervisorRow = {
            "generation": 0, "configured_at": 0.0, "refused": None, "needs_restart": [], "late": [],
            "draining": None,
        }  # fmt: skip
        self.configured(first, ())

    def configured(self, generation: Generation, late: Sequence[str]) -> None:
        """Says by which configuration the node goes; `late` are the processes that do not yet."""
        self._row["generation"] = generation.number
        self._row["configured_at"] = generation.since
        self._row["needs_restart"] = list(generation.needs_restart)
        self._row["late"] = list(late)
        self._row["refused"] = None
        self._publish()

    def refused(self, faults: Sequence[str]) -> None:
        """Says that the configuration, as it is now, was refused."""
        lines = [" ".join(fault.split()) for fault in faults]
        self._row["refused"] = {"at": time.time(), "faults": bounded(lines)}
        self._publish()

    def draining(self, draining: Draining | None) -> None:
        """Says that a drain goes on, or (None) that there is none."""
        if draining != self._row["draining"]:
            self._row["draining"] = draining
            self._publish()

    def _publish(self) -> None:
        self._board.publish(SUPERVISOR, self._row)
