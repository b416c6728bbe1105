"""Asks the running node for a drain, follows it to its end, or has it undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastjmix.control.client import ControlClient, NodeAway, NodeRefused
from fastjmix.control.node_status import NodeStatus
from fastjmix.errors import FastjmixError
from fastjmix.ipc.board_rows import Draining
from fastjmix.spool.lock import holder
from fastjmix.tools.plain_text import many

POLL_SECS: Final = 0.25
"""How often the node is asked how far it is."""


def begin(storage: Path) -> None:
    """Begins a drain. Raises NodeAway, NodeRefused."""
    ControlClient(storage).post("/api/node/drain", {})


def undo(storage: Path) -> None:
    """Has a drain undone. Raises NodeAway, NodeRefused; FastjmixError where none lasts, or it
    cannot be undone.
    """
    try:
        ControlClient(storage).post("/api/node/undrain", {})
    except NodeRefused as refused:
        if faults := refused.answer.get("faults"):
            raise FastjmixError("; ".join(faults)) from refused
        raise


def follow(storage: Path, said: Callable[[str], None]) -> bool:
    """Waits until the node has ended; returns False when the drain was undone. `said` is called
    with what is waited for, each time that it has changed.
    """
    client, pid, shown = ControlClient(storage), holder(storage), ""
    while True:
        try:
            status: NodeStatus = client.get("/api/node/status")  # type: ignore[assignment]
        except NodeAway:
            if holder(storage) != pid:
                return True
            continue  # its api has ended, or is started again
        if status["node"]["pid"] != pid and holder(storage) != pid:
            return True  # another has been started
        if _draining(status) is None:
            return False
        line = words(status)
        if line != shown:
            said(line)
            shown = line
        time.sleep(POLL_SECS)


def words(status: NodeStatus) -> str:
    """Returns what a drain waits for, in one line."""
    draining, parts = _draining(status), status["envelopes"]
    match draining["phase"] if draining is not None else "":
        case "closing":
            return f"{many(len(status['associations']), 'association')} open"
        case "sealing":
            return f"{many(parts['building']['count'], 'envelope')} to seal"
        case "delivering":
            return f"{many(parts['outbox']['count'], 'envelope')} to deliver"
        case _:
            return "no drain"


def _draining(status: NodeStatus) -> Draining | None:
    """Returns the drain that lasts; None for none."""
    row = status["node"]["configuration"]
    return None if row is None else row["draining"]
