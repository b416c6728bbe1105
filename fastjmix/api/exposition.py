"""Exposes the shared counters and gauges in the form that Prometheus reads: /metrics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastjmix._version import __version__
from fastjmix.api.shared import Shared
from fastjmix.ipc import metrics


class StatsCollector(Collector):
    """The counters of all processes. `collect` may wait for the disk: it belongs in a thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """Yields every counter and gauge of ipc/metrics.py, the state of the disk, the version."""
        totals = self._shared.channels.metrics.totals()
        for name, meaning in metrics.COUNTERS.items():
            yield CounterMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        for name, meaning in metrics.GAUGES.items():
            yield GaugeMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        with contextlib.suppress(OSError):
            found = os.statvfs(self._shared.spool.root)
            free = found.f_bavail * found.f_frsize
            yield GaugeMetricFamily("fastjmix_storage_free_bytes", "Free bytes of storage.", free)
            age, meaning = self._shared.state.queue_age(), "Age of the oldest envelope in outbox/."
            yield GaugeMetricFamily("fastjmix_outbox_oldest_age_seconds", meaning, age)
        returning, meaning = len(self._shared.calling_aes), "Calling AE titles that come back."
        yield GaugeMetricFamily("fastjmix_calling_aes_returning", meaning, returning)
        build = GaugeMetricFamily("fastjmix_build", "Always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
