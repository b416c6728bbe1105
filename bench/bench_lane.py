"""The cost of a hand-over: one instance through a lane, by its size. Floor: memcpy of its bytes.

Both ends are in one thread, so nobody waits and nobody is woken: what is left is bookkeeping, the
copy, and the CRC-32 that the packer computes in any case.
"""

from __future__ import annotations

from typing import Any

import pytest

from bench.passage import OneLane, stream
from bench.study import Study

SIDES = (4, 64, 256, 1024)


@pytest.mark.parametrize("side", SIDES)
def bench_hand_over(benchmark: Any, side: int) -> None:
    study = Study("one", 1, side, side)
    data, lane = stream(study), OneLane()
    benchmark.group = f"lane {side * side * 2} B"
    (arrival,) = benchmark(lane.feed, data)
    assert arrival.data_bytes == study.data_bytes


@pytest.mark.parametrize("side", SIDES)
def bench_floor_memcpy(benchmark: Any, side: int) -> None:
    data = stream(Study("one", 1, side, side))
    space = memoryview(bytearray(len(data)))
    benchmark.group = f"lane {side * side * 2} B"
    benchmark(space.__setitem__, slice(None), data)
    assert space == data
