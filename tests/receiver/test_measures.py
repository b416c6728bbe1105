"""receiver/measures.py: what one association brought, and for whom it waited."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastjmix.receiver.measures import (
    BETWEEN,
    DISK,
    INSIDE,
    PACKER,
    STEPS,
    Buckets,
    Measures,
    log_pairs,
)
from tests.support import wire
from tests.support.gateway import Gateway, Peer, running

WITHIN = 1.001 / 2 / STEPS

# -- percentiles -----------------------------------------------------------------------------------


@example([0.0, 0.25], 0.01)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99, 1]))
def test_a_percentile_is_in_the_bucket_of_the_exact_one(times: list[float], part: float) -> None:
    buckets = Buckets()
    for secs in times:
        buckets.add(secs)
    rank = max(1, -int(-part * len(times) // 1))
    exact = sorted(times)[rank - 1]
    found = buckets.percentile(part)
    assert found is not None
    assert abs(found - exact) <= exact * WITHIN


def test_without_times_there_is_no_percentile() -> None:
    assert Buckets().percentile(0.5) is None


@pytest.mark.parametrize("exponent", range(3, 30))
def test_the_edges_of_buckets(exponent: int) -> None:
    for micros in (2**exponent - 1, 2**exponent, 2**exponent + 1):
        buckets = Buckets()
        buckets.add(micros / 1e6 + 1e-9)
        found = buckets.percentile(1.0)
        assert found == pytest.approx(micros / 1e6, rel=WITHIN, abs=0)


# -- waits -----------------------------------------------------------------------------------------


def test_each_wait_has_its_cause() -> None:
    measures = Measures()
    at = measures._since
    for cause, secs in ((INSIDE, 1), (BETWEEN, 2), (PACKER, 4), (DISK, 8), (DISK, 8), (INSIDE, 16)):
        measures.wait(cause, at)
        measures.wait(cause, at + secs / 2)  # it lasts: no new one
        measures.wake(at + secs)
        measures.wake(at + secs)
        at += secs + 1  # a second of work
    measures.wait(BETWEEN, at)
    facts = measures.facts(at + 32, 16_384, 131_072)
    assert facts["waits"] == {"peer": 51.0, "between": 34.0, "packer": 4.0, "disk": 16.0}
    assert facts["seconds"] == 1 + 2 + 4 + 8 + 8 + 16 + 6 + 32
    assert facts["p50_ms"] == pytest.approx(8000, rel=1 / 16)
    assert facts == measures.facts(at + 32, 16_384, 131_072)  # it changes nothing


def test_a_clock_that_is_behind_counts_nothing() -> None:
    measures = Measures()
    at = measures._since
    measures.wait(DISK, at + 1)
    measures.wake(at)
    assert measures.facts(at, 0, 0)["waits"]["disk"] == 0
    assert measures.responses.percentile(0.5) is None


def test_statuses_and_bytes() -> None:
    measures = Measures()
    measures.count_stored(1000)
    measures.count_stored(500)
    for status in (0xA700, 0x0122, 0xA700):
        measures.count_refused(status)
    facts = measures.facts(measures._since, 0, 16_384)
    assert facts["statuses"] == {"0000": 2, "0122": 1, "A700": 2}
    assert (facts["stored"], facts["refused"], facts["bytes"]) == (2, 3, 1500)
    pairs = log_pairs(facts)
    assert pairs["statuses"] == "0000:2,0122:1,A700:2"
    assert pairs["pdu_bytes"] is None  # no P-DATA-TF came
    assert abs(facts["began"] - time.time()) < 60


# -- a gateway -------------------------------------------------------------------------------------


def ended(own: Gateway, count: int = 1) -> dict[str, str]:
    line = own.wait_for(" association_ended ", count).string
    return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', line))


def stored(peer: Peer, size: int, instance: str) -> None:
    assert peer.store(wire.data_set(instance=instance, pixels=bytes(size)), instance) == 0


def slow_peer(peer: Peer) -> None:
    """It sends a byte, and the rest of the message half a second later; then it thinks as long."""
    data = wire.data_set(instance="1.2.3.1", pixels=bytes(100_000))
    items = wire.pdvs(1, wire.store_rq("1.2.3.1"), True)
    message = wire.p_data(items + wire.pdvs(1, data, False, [16_000] * 7))
    peer.send(message[:5000])
    time.sleep(0.5)
    peer.send(message[5000:])
    assert peer.status() == 0
    time.sleep(0.5)


def quick_peer(peer: Peer) -> None:
    for number in range(5):
        stored(peer, 100_000, f"1.2.3.{number + 1}")


def disk_behind(own: Gateway) -> dict[str, str]:
    """The packer is stopped for half a second with a whole instance in its lane."""
    return with_stopped_packer(own, 10_000)


def packer_behind(own: Gateway) -> dict[str, str]:
    """It is stopped while an instance larger than its lane arrives."""
    return with_stopped_packer(own, 3_000_000)


def with_stopped_packer(own: Gateway, size: int) -> dict[str, str]:
    packer = own.children()["packer-0"]
    data = wire.data_set(instance="1.2.3.1", pixels=bytes(size))
    with Peer(own.dicom_port) as peer:
        peer.associate()
        os.kill(packer, signal.SIGSTOP)
        timer = threading.Timer(0.5, os.kill, (packer, signal.SIGCONT))
        timer.start()
        assert peer.store(data, "1.2.3.1") == 0
        timer.join()
        peer.release()
    return ended(own)


@pytest.mark.parametrize(
    ("behind", "cause", "others"),
    [(disk_behind, "disk", ("peer", "packer")), (packer_behind, "packer", ("peer",))],
)
def test_a_slow_disk_is_no_slow_modality(
    tmp_path: Path,
    behind: Callable[[Gateway], dict[str, str]],
    cause: str,
    others: tuple[str, ...],
) -> None:
    with running(Gateway(tmp_path, 9, fastjmix="lane_bytes = 1048576")) as own:
        found = behind(own)
        assert 0.3 <= float(found[f"wait_{cause}_secs"]) <= float(found["seconds"])
        waited = float(found[f"wait_{cause}_secs"])
        assert all(float(found[f"wait_{one}_secs"]) < waited / 2 for one in others), found
        if cause == "disk":
            assert float(found["p99_ms"]) >= 300


@pytest.mark.parametrize(
    ("sends", "instances", "waits"),
    [(slow_peer, 1, {"peer": 0.9, "between": 0.45}), (quick_peer, 5, {})],
    ids=["slow modality", "quick"],
)
def test_a_line_says_for_whom_an_association_waited(
    tmp_path: Path, sends: Callable[[Peer], None], instances: int, waits: dict[str, float]
) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        with Peer(own.dicom_port) as peer:
            peer.associate()
            sends(peer)
            peer.release()
        found = ended(own)
        assert found["called_ae"] == "JMIX_RECEIVER"
        assert found["stored"] == str(instances)
        assert found["statuses"] == f"0000:{instances}"
        assert int(found["bytes"]) > instances * 100_000
        assert 10_000 < int(found["pdu_bytes"]) <= int(found["max_pdu_bytes"]) == 131_072
        secs = float(found["seconds"])
        for cause in ("peer", "between"):
            assert waits.get(cause, 0) <= float(found[f"wait_{cause}_secs"]) <= secs
        assert float(found["wait_between_secs"]) <= float(found["wait_peer_secs"])
        assert float(found["wait_packer_secs"]) == 0
        assert 0 < float(found["p50_ms"]) <= float(found["p99_ms"]) < 1000 * secs
        rate = int(found["bytes"]) / 1e6 / secs
        assert float(found["mb_per_second"]) == pytest.approx(rate, rel=0.05, abs=0.02)
