"""The rates of the status: received and delivered in each step."""

from __future__ import annotations

from fastjmix.api.admin.rates import STEPS_MAX, Rates
from fastjmix.ipc.metrics import MetricsPage


def test_each_step_has_its_amount_and_an_hour_is_kept() -> None:
    page = MetricsPage(2)
    one, other = page.row(0), page.row(1)
    one.add("instance_bytes_total", 7_000_000)
    rates = Rates(one)
    for n in range(3):
        one.add("instance_bytes_total", n * 1_000_000)
        other.add("instances_received_total", n)
        other.add("instances_discarded_total", n)
        rates.sample()
    told = rates.as_json()
    assert told["received_mb"] == [0, 1, 2]
    assert told["received_instances"] == [0, 1, 2]
    assert told["discarded_instances"] == [0, 1, 2]
    assert told["delivered_mb"] == told["delivered_envelopes"] == [0, 0, 0]
    for _ in range(STEPS_MAX):
        rates.sample()
    assert rates.as_json()["received_mb"] == [0] * STEPS_MAX
