"""Turns the rows of the state board into families for /metrics: upstreams, and the ledger.

Guaranteed: a row that is missing, as in the first moments of a node, gives families without
samples. Upstreams of one name (two pipelines may use one) are one sample: Prometheus refuses a page
with the same labels twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fastjmix.ipc.board_rows import Labelled, LedgerRow, UpstreamRow, ledger_row, upstream_rows
from fastjmix.ipc.state_board import StateBoard

Family = Literal["associations", "instances", "attempts", "rule_decisions"]

UPSTREAM_STATES: Final = ("available", "paused", "held")
LEDGER_STATES: Final = ("ok", "behind", "failing")

_UPSTREAM_GAUGES: Final[Mapping[Literal["waiting", "held", "running"], str]] = {
    "waiting": "Envelopes that wait for an upstream, but for those on hold.",
    "held": "Envelopes on hold for an upstream.",
    "running": "Uploads to an upstream that are under way.",
}

_COUNTED: Final[Mapping[Family, tuple[str, tuple[str, ...]]]] = {
    "associations": ("Associations that ended or were rejected.", ("calling_ae", "result")),
    "instances": (
        "Instances answered in associations that have ended.",
        ("calling_ae", "status"),
    ),
    "attempts": ("Attempts to deliver an envelope.", ("upstream", "outcome")),
    "rule_decisions": (
        "Instances that a rule rejected or discarded.",
        ("rule", "action"),
    ),
}
"""The families of recorder/counters.py, with their labels."""


def board_families(board: StateBoard) -> Iterator[Metric]:
    """Yields the families of both rows."""
    yield from _upstreams(upstream_rows(board))
    row = ledger_row(board)
    for name, (meaning, labels) in _COUNTED.items():
        counted = CounterMetricFamily(f"fastjmix_{name}_total", meaning, labels=labels)
        for *values, number in _counts(row, name):
            counted.add_metric(list(map(str, values)), int(number))
        yield counted
    yield from _ledger(row)


def _counts(row: LedgerRow | None, name: Family) -> Labelled:
    return row.get(name, []) if row is not None else []


def _upstreams(rows: list[UpstreamRow]) -> Iterator[Metric]:
    meaning = "1 for the state in which an upstream is, 0 for the others."
    states = GaugeMetricFamily("fastjmix_upstream_state", meaning, labels=["upstream", "state"])
    names = dict.fromkeys(str(row["name"]) for row in rows)
    for name in names:
        found = {row["state"] for row in rows if str(row["name"]) == name}
        for state in UPSTREAM_STATES:
            states.add_metric([name, state], int(state in found))
    yield states
    for key, meaning in _UPSTREAM_GAUGES.items():
        sums: Counter[str] = Counter()
        for row in rows:
            sums[str(row["name"])] += row.get(key) or 0
        family = GaugeMetricFamily(f"fastjmix_upstream_{key}", meaning, labels=["upstream"])
        for name, number in sums.items():
            family.add_metric([name], number)
        yield family


def _ledger(row: LedgerRow | None) -> Iterator[Metric]:
    meaning = "1 for the state in which the ledger is, 0 for the others."
    states = GaugeMetricFamily("fastjmix_ledger_state", meaning, labels=["state"])
    behind = GaugeMetricFamily(
        "fastjmix_ledger_events_waiting", "Events that are still to be written.", labels=()
    )
    size = GaugeMetricFamily("fastjmix_ledger_size_bytes", "Bytes of the ledger.", labels=())
    if row is not None:
        for state in LEDGER_STATES:
            states.add_metric([state], int(state == row["state"]))
        behind.add_metric([], row["events_behind"])
        size.add_metric([], row["bytes"])
    yield from (states, behind, size)
