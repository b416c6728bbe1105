"""Exposes what this node counts, measures and is, in the form that Prometheus reads: /metrics.

docs/metrics.md has every family (tests/api/test_exposition.py compares them). The families that
are read from the state board are in board_families.py.
Guaranteed: the number of samples does not depend on peers: labels have listed values, or
recorder/counters.py bounds them, or they come from the configuration. A source that cannot be read
is left out; the rest is shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fastjmix._version import __version__
from fastjmix.api.board_families import board_families
from fastjmix.api.shared import Shared
from fastjmix.ipc.metric_families import COUNTERS, GAUGES, HISTOGRAMS, LABELLED


def expose(shared: Shared, accept: str) -> tuple[bytes, str]:
    """Returns the metrics, and their Content-Type: OpenMetrics where `accept` asks for it, else
    Prometheus' text format. May wait for the disk."""
    encode, content_type = choose_encoder(accept)
    return encode(StatsCollector(shared)), content_type


class StatsCollector(Collector):
    """All families of one node. `collect` may wait for the disk: it belongs in a thread."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared

    def collect(self) -> Iterator[Metric]:
        """Yields every family that can be read now."""
        sources: tuple[Callable[[], Iterator[Metric]], ...] = (
            self._page,
            self._labelled,
            self._histograms,
            lambda: board_families(self._shared.channels.board),
            self._lanes,
            self._storage,
            self._envelopes,
            self._node,
        )
        for source in sources:
            with contextlib.suppress(OSError):
                yield from list(source())

    def _page(self) -> Iterator[Metric]:
        totals = self._shared.channels.metrics.totals()
        for name, meaning in COUNTERS.items():
            yield CounterMetricFamily(f"fastjmix_{name}", meaning, totals[name])
        for name, meaning in GAUGES.items():
            yield GaugeMetricFamily(f"fastjmix_{name}", meaning, totals[name])

    def _labelled(self) -> Iterator[Metric]:
        for name, one in LABELLED.items():
            family = CounterMetricFamily(f"fastjmix_{name}", one.meaning, labels=[one.label])
            for value, number in self._shared.channels.metrics.labelled(name).items():
                family.add_metric([value], number)
            yield family

    def _histograms(self) -> Iterator[Metric]:
        for name, one in HISTOGRAMS.items():
            found = self._shared.channels.metrics.observed(name)
            family = HistogramMetricFamily(f"fastjmix_{name}", one.meaning)
            bounds = [*(str(float(bound)) for bound in found.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(found.counts), strict=True))
            family.add_metric([], buckets, found.secs)
            yield family

    def _lanes(self) -> Iterator[Metric]:
        live = self._shared.live
        meaning = "Lanes: so many associations can be open at once."
        yield GaugeMetricFamily("fastjmix_lanes", meaning, live.total)
        meaning = "Lanes of open associations."
        yield GaugeMetricFamily("fastjmix_lanes_in_use", meaning, live.leased)
        meaning = "Lanes that are full: their associations wait for the packer."
        yield GaugeMetricFamily("fastjmix_lanes_stalled", meaning, live.stalled)

    def _storage(self) -> Iterator[Metric]:
        """Raises OSError."""
        found = self._shared.room.measured()
        meaning = "Free bytes of storage."
        yield GaugeMetricFamily("fastjmix_storage_free_bytes", meaning, found.free)
        meaning = "Bytes of the storage's file system."
        yield GaugeMetricFamily("fastjmix_storage_size_bytes", meaning, found.total)
        meaning = "Free bytes below which no association (soft) or no instance (hard) is accepted."
        marks = GaugeMetricFamily("fastjmix_storage_mark_bytes", meaning, labels=["mark"])
        yield _with(marks, found.marks._asdict())
        meaning = "Free inodes of storage, less those that are reserved."
        inodes = GaugeMetricFamily("fastjmix_storage_free_inodes", meaning, labels=())
        meaning = "Free inodes below which no association (soft) or no file (hard) is accepted."
        marks = GaugeMetricFamily("fastjmix_storage_mark_inodes", meaning, labels=["mark"])
        if found.inode_marks is not None:  # else the file system does not count them
            inodes.add_metric([], found.free_inodes)
            _with(marks, found.inode_marks._asdict())
        yield from (inodes, marks)

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
        meaning = "Age from which the oldest is an alarm (queue_alarm_secs)."
        alarm = self._shared.alarm_secs
        yield GaugeMetricFamily("fastjmix_outbox_alarm_age_seconds", meaning, alarm)

    def _node(self) -> Iterator[Metric]:
        meaning = "1 while /readyz says ready, else 0."
        ready = not self._shared.state.not_ready_reasons()
        yield GaugeMetricFamily("fastjmix_ready", meaning, int(ready))
        returning, meaning = len(self._shared.calling_aes), "Calling AE titles that come back."
        yield GaugeMetricFamily("fastjmix_calling_aes_returning", meaning, returning)
        meaning = "When a configured certificate expires, in Unix seconds."
        ends = GaugeMetricFamily("fastjmix_certificate_expiry_seconds", meaning, labels=["file"])
        certificates = self._shared.certificates
        yield _with(ends, {str(path): expiry.at for path, expiry in reversed(certificates)})
        build = GaugeMetricFamily("fastjmix_build", "Always 1.", labels=["version"])
        yield _with(build, {__version__: 1})


def _with(family: GaugeMetricFamily, samples: dict[str, float]) -> GaugeMetricFamily:
    """Returns a family with these samples, by the value of its one label."""
    for value, number in samples.items():
        family.add_metric([value], number)
    return family
