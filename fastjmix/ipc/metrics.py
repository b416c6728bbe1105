"""Counters, gauges and histograms of all processes: one shared page, one row for each process.

Guaranteed: adding needs no lock, because a row has one writer (the process that holds it, and its
successor after a restart); readers sum the rows. Values have 64 bits and start at zero with the
supervisor. A row begins on a cache line of its own. To observe a time takes some 0.2 µs by
timeit; `bench_observe` in bench/bench_dicom.py shows it beside what the receiver measures.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from fastjmix.ipc.metric_families import COUNTERS, GAUGES, HISTOGRAMS, LABELLED, OTHER

_INDEX: Final = {name: index for index, name in enumerate([*COUNTERS, *GAUGES])}

_LABELS: Final = {
    label: index
    for index, label in enumerate(
        ((name, value) for name, one in LABELLED.items() for value in (*one.values, OTHER)),
        start=len(_INDEX),
    )
}

_SIZES: Final = {name: len(one.bounds) + 2 for name, one in HISTOGRAMS.items()}
"""Cells of a histogram: one for each bound, one for what is above, and the sum in seconds, which is
a double."""

_FIRST: Final = dict(
    zip(_SIZES, accumulate(_SIZES.values(), initial=len(_INDEX) + len(_LABELS)), strict=False)
)
"""The first cell of each histogram."""

_LINE: Final = 8
"""Cells of a cache line."""

_USED: Final = len(_INDEX) + len(_LABELS) + sum(_SIZES.values())
_ROW: Final = -(-_USED // _LINE) * _LINE
_CELL_MAX: Final = 2**64 - 1


class Observed(NamedTuple):
    """A histogram summed over the processes.

    `counts` are those of each bucket, the last one for times above all bounds; `secs` is the
    sum of all times.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    secs: float


class MetricsPage:
    """The shared page. Made by the supervisor before it forks; `row(n)` is for process n."""

    def __init__(self, rows: int) -> None:
        self._map = mmap.mmap(-1, max(rows, 1) * _ROW * 8)
        self._cells = memoryview(self._map).cast("Q")
        self.rows = rows

    def row(self, index: int) -> Metrics:
        """Returns the row of one process. Its gauges begin at zero, whatever a predecessor left."""
        cells = self._cells[index * _ROW : (index + 1) * _ROW]
        for name in GAUGES:
            cells[_INDEX[name]] = 0
        return Metrics(self, cells)

    def total(self, name: str) -> int:
        """Returns one counter or gauge, summed over the processes."""
        return sum(self._cells[_INDEX[name] :: _ROW])

    def totals(self) -> dict[str, int]:
        """Returns every counter and gauge, summed over the processes."""
        return {name: self.total(name) for name in _INDEX}

    def labelled(self, name: str) -> dict[str, int]:
        """Returns a counter of LABELLED by the values of its label, summed over the processes."""
        values = (*LABELLED[name].values, OTHER)
        return {value: sum(self._cells[_LABELS[name, value] :: _ROW]) for value in values}

    def observed(self, name: str) -> Observed:
        """Returns a histogram, summed over the processes."""
        first, size = _FIRST[name], _SIZES[name]
        counts = [sum(self._cells[cell::_ROW]) for cell in range(first, first + size - 1)]
        secs = sum(_floats(self._cells)[first + size - 1 :: _ROW])
        return Observed(HISTOGRAMS[name].bounds, counts, secs)


class Histogram:
    """One histogram of one process.

    The counts and the sum are kept here, too: to write a cell takes a third of the time of reading
    and writing it.
    """

    __slots__ = ("_bounds", "_cells", "_counts", "_secs", "_sum")

    def __init__(self, bounds: Sequence[float], cells: memoryview) -> None:
        """`cells` are one for each bound, one for what is above, and the sum. A predecessor's
        counts go on."""
        self._bounds = bounds
        self._cells = cells
        self._sum = _floats(cells[-1:])
        self._counts = list(cells[:-1])
        self._secs = self._sum[0]

    def observe(self, secs: float) -> None:
        """Counts a time. It is not below 0."""
        bucket = bisect_left(self._bounds, secs)
        self._counts[bucket] = count = self._counts[bucket] + 1
        self._cells[bucket] = count
        self._secs = total = self._secs + secs
        self._sum[0] = total


def _floats(cells: memoryview) -> memoryview[float]:
    """Returns cells as the doubles that are in them."""
    return cells.cast("B").cast("d")


class Metrics:
    """One process's row."""

    def __init__(self, page: MetricsPage, cells: memoryview) -> None:
        self._page = page
        self._cells = cells

    def add(self, name: str, amount: int = 1) -> None:
        """Adds to a counter. Raises KeyError for a name that is not in COUNTERS or GAUGES.

        A gauge does not fall below zero: a wrong number must not end the process that counts.
        """
        value = self._cells[_INDEX[name]] + amount
        self._cells[_INDEX[name]] = value if 0 <= value <= _CELL_MAX else 0

    def count(self, name: str, value: str) -> None:
        """Adds one to a counter of LABELLED, under this value of its label; under OTHER where it is
        none of them. Raises KeyError for a name that is not in LABELLED."""
        cell = _LABELS.get((name, value))
        self._cells[_LABELS[name, OTHER] if cell is None else cell] += 1

    def histogram(self, name: str) -> Histogram:
        """Returns a histogram of this process. Raises KeyError for a name not in HISTOGRAMS."""
        first = _FIRST[name]
        return Histogram(HISTOGRAMS[name].bounds, self._cells[first : first + _SIZES[name]])

    def set(self, name: str, value: int) -> None:
        """Sets a gauge of this process."""
        self._cells[_INDEX[name]] = value

    def total(self, name: str) -> int:
        """Returns one counter or gauge, summed over the processes."""
        return self._page.total(name)

    def totals(self) -> dict[str, int]:
        """Returns every counter and gauge, summed over the processes."""
        return self._page.totals()

    def labelled(self, name: str) -> dict[str, int]:
        """Returns a counter of LABELLED by the values of its label, summed over the processes."""
        return self._page.labelled(name)

    def observed(self, name: str) -> Observed:
        """Returns a histogram, summed over the processes."""
        return self._page.observed(name)
