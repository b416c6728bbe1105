"""spool/disk_marks.py: the crossing of a mark, once in each direction."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.spool import free_space
from fastjmix.spool.disk_marks import DiskMarks, Level, level
from fastjmix.spool.free_space import FreeSpace, Margin
from tests.support.disks import Memory, free

FREE, SOFT, HARD = Level


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_at_a_mark_is_not_below_it(off: int) -> None:
    assert level(Margin(1000 + off, 0, 1000, 100), FREE) is (SOFT if off < 0 else FREE)
    assert level(Margin(1100 + off, 0, 1000, 100), SOFT) is (SOFT if off < 0 else FREE)
    assert level(Margin(100 + off, 0, 1000, 100), SOFT) is (HARD if off < 0 else SOFT)
    assert level(Margin(500, 400 - off, 1000, 100), SOFT) is (HARD if off < 0 else SOFT)
    assert level(Margin(110 + off, 0, 1000, 100), HARD) is (HARD if off < 0 else SOFT)


def test_without_marks_nothing_is_below_them() -> None:
    assert level(Margin(0, 0, 0, 0), FREE) is FREE


@given(st.lists(st.integers(900, 1099), min_size=1, max_size=50))
def test_space_that_lies_at_a_mark_crosses_it_once(amounts: list[int]) -> None:
    levels = [FREE]
    for amount in amounts:
        levels.append(level(Margin(amount, 0, 1000, 100), levels[-1]))
    assert sum(one is not after for one, after in pairwise(levels)) == (min(amounts) < 1000)


def test_a_disk_that_fills_and_empties(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "MEASURE_SECS", -1.0)
    disk = Memory(tmp_path / "small", 16 << 20)
    try:
        marks = DiskMarks(FreeSpace(disk.at, soft=8 << 20, hard=2 << 20))
        filler = disk.at / "filler"
        found = []
        for size in (0, 4, 9, 9, 15, 15, 10, 0, 0):
            filler.write_bytes(bytes(size << 20))
            crossings = [one for one in marks.look() if one.resource == "space"]
            assert all(one.margin.free == free(disk.at) for one in crossings)
            found.append([(one.before, one.now) for one in crossings])
    finally:
        disk.close()
    once = [[], [], [(FREE, SOFT)], [], [(SOFT, HARD)], [], [(HARD, SOFT)], [(SOFT, FREE)], []]
    assert found == once


def test_a_storage_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskMarks(FreeSpace(tmp_path / "gone")).look()
