"""Exposes the shared counters and gauges in the form that Prometheus reads: /metrics."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fastjmix._version import __version__
from fastjmix.api.shared import Shared
from fastjmix.ipc import metric_families


class StatsCollector(Collector):
    """The counters of all processes. `collect` may wait for the disk: it belongs in a thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """Yields every counter and gauge of ipc/metrics.py, the state of the disk, the version."""
        totals = self._shared.channels.metrics.totals()
        for name, meaning in metric_families.COUNTERS.items():
            yield CounterMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        for name, meaning in metric_families.GAUGES.items():
            yield GaugeMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        with contextlib.suppress(OSError):
            found = os.statvfs(self._shared.spool.root)
            free = found.f_bavail * found.f_frsize
            yield GaugeMetricFamily("fastjmix_storage_free_bytes", "Free bytes of storage.", free)
            yield from self._envelopes()
        returning, meaning = len(self._shared.calling_aes), "Calling AE titles that come back."
        yield GaugeMetricFamily("fastjmix_calling_aes_returning", meaning, returning)
        build = GaugeMetricFamily("fastjmix_build", "Always 1.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build

    def _envelopes(self) -> Iterator[Metric]:
        """Yields the gauges that are read from the directories: a restart changes none of them.

        Raises OSError.
        """
        counts = self._shared.tally.counts()
        number = GaugeMetricFamily("fastjmix_envelopes", "Envelopes by state.", labels=["state"])
        meaning = "Bytes of envelopes by state, but for sent."
        size = GaugeMetricFamily("fastjmix_envelopes_bytes", meaning, labels=["state"])
        meaning = "How long the oldest envelope is in its state; 0 without one."
        age = GaugeMetricFamily("fastjmix_envelopes_oldest_age_seconds", meaning, labels=["state"])
        for state, one in counts.items():
            number.add_metric([state], one.count)
            if one.size_bytes is not None:
                size.add_metric([state], one.size_bytes)
                age.add_metric([state], one.age())
        yield from (number, size, age)
        meaning = "Age of the oldest envelope in outbox/ that is not on hold."
        oldest = counts["outbox"].age()
        yield GaugeMetricFamily("fastjmix_outbox_oldest_age_seconds", meaning, oldest)
