"""Finds out whether this node is ready, and what a person should look at: /readyz."""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import Final

from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import FreeSpace, Spool

AGE_SECS: Final = 5.0
"""How long the oldest envelope is known without another look at outbox/: with 100,000 in it a look
takes a good part of a second."""


class NodeState:
    """The state of this node. Its methods may wait for the disk: they belong in a thread."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        room: FreeSpace,
        stopping: asyncio.Event,
        alarm_secs: float,
    ) -> None:
        self._spool = spool
        self._metrics = metrics
        self._room = room
        self._stopping = stopping
        self._alarm_secs = alarm_secs
        self._oldest: float | None = None
        self._looked = -math.inf

    def not_ready_reasons(self) -> list[str]:
        """Returns why this node is not ready; an empty list when it is."""
        found = ["fastjmix is stopping"] if self._stopping.is_set() else []
        totals = self._metrics.totals()
        if totals["receivers_down"]:
            found.append("a receiver died and is being restarted")
        if totals["packers_down"]:
            found.append("a packer died and is being restarted")
        if totals["intake_stopped"]:
            found.append("the storage has failed twice: nothing is taken until it is well again")
        try:
            if self._room.low():
                few = ": few inodes are left" if self._room.lacking == "inodes" else ""
                found.append(f"the storage is nearly full{few}")
            if not os.access(self._spool.building, os.W_OK | os.X_OK):
                found.append("the storage directory is not writable")
        except OSError as problem:
            found.append(f"the storage directory cannot be used: {problem.strerror}")
        return found

    def queue_age(self) -> float:
        """Returns for how many seconds the oldest envelope has waited for its upstream.

        Raises OSError.
        """
        now = time.monotonic()
        if now - self._looked > AGE_SECS:
            self._oldest, self._looked = self._spool.outbox_listing.oldest(), now
        return 0.0 if self._oldest is None else max(0.0, time.time() - self._oldest)

    def warnings(self) -> list[str]:
        """Returns what a person should look at, though the node is ready. Raises OSError."""
        age = self.queue_age()
        if age <= self._alarm_secs:
            return []
        limit = f"queue_alarm_secs = {self._alarm_secs:g}"
        return [f"the oldest envelope has waited for its upstream for {int(age)} s ({limit})"]
