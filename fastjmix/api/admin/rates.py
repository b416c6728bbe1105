"""Keeps how much was received and delivered in each step of the last hour.

It is made from the counters that all processes share, and ends with this process.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

from fastjmix.control.node_status import RateSeries
from fastjmix.ipc.metrics import Metrics

STEP_SECS: Final = 5.0
STEPS_MAX: Final = 720
"""Steps of an hour."""

MEGABYTE: Final = 1e6

SOURCES: Final = {
    "received_mb": ("instance_bytes_total", MEGABYTE),
    "received_instances": ("instances_received_total", 1.0),
    "discarded_instances": ("instances_discarded_total", 1.0),
    "delivered_mb": ("upload_bytes_total", MEGABYTE),
    "delivered_envelopes": ("envelopes_uploaded_total", 1.0),
}
"""The counter of each series, and what is divided by."""


class Rates:
    """The history of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._before = self._totals()
        self._series = {name: deque[float](maxlen=STEPS_MAX) for name in SOURCES}

    async def run(self) -> None:
        """Samples until it is cancelled. A step is as long as it should be on average."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += STEP_SECS
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.sample()

    def sample(self) -> None:
        """Ends a step."""
        now = self._totals()
        for name, (_, unit) in SOURCES.items():
            grown = max(0, now[name] - self._before[name]) / unit
            self._series[name].append(round(grown, 3))
        self._before = now

    def as_json(self) -> RateSeries:
        """Returns the amount within each step of STEP_SECS, the latest last."""
        return {
            "step_secs": STEP_SECS,
            "received_mb": list(self._series["received_mb"]),
            "received_instances": list(self._series["received_instances"]),
            "discarded_instances": list(self._series["discarded_instances"]),
            "delivered_mb": list(self._series["delivered_mb"]),
            "delivered_envelopes": list(self._series["delivered_envelopes"]),
        }

    def _totals(self) -> dict[str, int]:
        return {name: self._metrics.total(counter) for name, (counter, _) in SOURCES.items()}
