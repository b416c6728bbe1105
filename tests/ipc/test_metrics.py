"""ipc/metrics.py: rows of one page, their sums, and histograms that outlive a process."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.dicom.dimse import Status
from fastjmix.ipc.metric_families import COUNTERS, GAUGES, HISTOGRAMS, LABELLED, OTHER
from fastjmix.ipc.metrics import MetricsPage

NAME = "commit_seconds"
BOUNDS = HISTOGRAMS[NAME].bounds


@given(st.lists(st.floats(0, 2 * BOUNDS[-1]), max_size=50))
def test_a_time_is_counted_by_the_first_bound_that_it_does_not_exceed(times: list[float]) -> None:
    page = MetricsPage(2)
    for row, secs in enumerate(times):
        page.row(row % 2).histogram(NAME).observe(secs)
    found = page.observed(NAME)
    cumulated = [sum(found.counts[: n + 1]) for n in range(len(found.counts))]
    assert cumulated[:-1] == [sum(secs <= bound for secs in times) for bound in BOUNDS]
    assert cumulated[-1] == len(times)
    assert found.secs == pytest.approx(sum(times))


def test_a_successor_goes_on_with_the_counts_and_not_with_the_gauges() -> None:
    page = MetricsPage(2)
    first = page.row(1)
    first.add("instances_received_total", 3)
    first.set("outbox_envelopes", 4)
    first.count("restarts_total", "packer")
    first.histogram(NAME).observe(0.5)
    second = page.row(1)
    second.histogram(NAME).observe(0.5)
    second.count("restarts_total", "packer")
    assert second.total("instances_received_total") == 3
    assert second.total("outbox_envelopes") == 0
    assert second.labelled("restarts_total")["packer"] == 2
    assert page.observed(NAME).secs == 1.0
    assert sum(page.observed(NAME).counts) == 2


def test_a_value_that_no_label_has_is_another() -> None:
    own = MetricsPage(1).row(0)
    own.count("refusals_total", "A700")
    own.count("refusals_total", "FFFF")
    found = own.labelled("refusals_total")
    assert {value: n for value, n in found.items() if n} == {"A700": 1, OTHER: 1}
    with pytest.raises(KeyError):
        own.count("no_such_total", "A700")


def test_families_touch_no_cell_of_each_other() -> None:
    own = MetricsPage(1).row(0)
    for name in (*COUNTERS, *GAUGES):
        own.add(name)
    for name, family in LABELLED.items():
        for value in (*family.values, OTHER):
            own.count(name, value)
    for name, measured in HISTOGRAMS.items():
        for bound in (*measured.bounds, 2 * measured.bounds[-1]):
            own.histogram(name).observe(bound)
    assert set(own.totals().values()) == {1}
    assert all(set(own.labelled(name).values()) == {1} for name in LABELLED)
    assert all(set(own.observed(name).counts) == {1} for name in HISTOGRAMS)


def test_the_statuses_of_refusals_are_those_that_are_answered() -> None:
    failures = {f"{status:04X}" for status in Status if status}
    assert set(LABELLED["refusals_total"].values) == failures


def test_bounds_rise() -> None:
    for measured in HISTOGRAMS.values():
        assert all(low < high for low, high in pairwise(measured.bounds))
