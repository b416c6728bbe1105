"""Stepping over PDU and PDV headers where they lie. Floor: memcpy of the same bytes.

The numbers hold one copy into the lane, as a socket makes it, and the packer's side without a
digest (its CRC-32 included): `lane` and `digest` tell these apart.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.passage import OneLane, stream
from bench.study import CT_STUDY, MR_STUDY, Study

CASES = {"ct": CT_STUDY.sized(4), "mr": MR_STUDY.sized(40)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("pdu", [131072, 16384, 4096])
def bench_scan(benchmark: Any, name: str, pdu: int) -> None:
    study = CASES[name]
    data, lane = stream(study, pdu), OneLane()
    benchmark.group = f"pdv {name}"
    arrivals = benchmark(lane.feed, data)
    _right(study, arrivals)


@pytest.mark.parametrize("name", CASES)
def bench_floor_memcpy(benchmark: Any, name: str) -> None:
    data = stream(CASES[name])
    space = memoryview(bytearray(len(data)))
    benchmark.group = f"pdv {name}"
    benchmark(space.__setitem__, slice(None), data)
    assert space == data


def _right(study: Study, arrivals: list[Any]) -> None:
    assert len(arrivals) == study.instances
    assert sum(arrival.data_bytes for arrival in arrivals) == study.data_bytes
    assert arrivals[-1].sop_instance_uid.decode() == study.instance_uid(study.instances - 1)
