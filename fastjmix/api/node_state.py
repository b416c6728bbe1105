"""Finds out whether this node is ready: /readyz."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from fastjmix.api.warnings import TO_DO, space
from fastjmix.ipc.drain import DrainPage
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import FreeSpace, Spool

INTAKE_STOPPED: Final = "the storage has failed twice: nothing is taken until it is well again"

DRAINING: Final = "fastjmix drains: no new association is accepted"


class NodeState:
    """The state of this node. Its methods may wait for the disk: they belong in a thread."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        room: FreeSpace,
        drain: DrainPage,
        stopping: asyncio.Event,
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._room = room
        self._drain = drain
        self._stopping = stopping

    def not_ready_reasons(self) -> list[str]:
        """Returns why this node is not ready; an empty list when it is."""
        return [text for _, text in self.reasons()]

    def reasons(self) -> list[tuple[str, str]]:
        """Returns the same, each with a name that does not change while it lasts."""
        found = [("stopping", "fastjmix is stopping")] if self._stopping.is_set() else []
        if self._drain.draining and not found:
            found.append(("draining", DRAINING))
        totals = self._metrics.totals()
        if totals["receivers_down"]:
            found.append(("receiver", "a receiver died and is being restarted"))
        if totals["packers_down"]:
            found.append(("packer", "a packer died and is being restarted"))
        if totals["intake_stopped"]:
            found.append(("storage_failed", INTAKE_STOPPED))
        try:
            if self._room.low():
                found.append(("storage_full", self._full()))
            if not os.access(self._spool.building, os.W_OK | os.X_OK):
                found.append(("storage_unusable", "the storage directory is not writable"))
        except OSError as problem:
            words = f"the storage directory cannot be used: {problem.strerror}"
            found.append(("storage_unusable", words))
        return found

    def _full(self) -> str:
        """Raises OSError."""
        found = self._room.measured()
        marks = found.inode_marks
        if self._room.lacking == "inodes" and marks is not None:
            return (
                f"the storage is nearly full: few inodes are left, {found.free_inodes} of "
                f"{found.total_inodes}, below {marks.soft} no association is accepted; {TO_DO}"
            )
        return f"the storage is nearly full: {space(found.free, found.total, found.marks)}; {TO_DO}"
