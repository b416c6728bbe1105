"""spool/conditions.py: what a start warns of, and starts all the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastjmix.config.file_system import doubtful, kind_of
from fastjmix.spool.conditions import space_warning
from fastjmix.spool.free_space import Marks, Measured
from tests.support.gateway import Gateways

GIB = 1 << 30
IN_MEMORY = Path("/dev/shm")


def now(free: int, inodes: int = 10_000) -> Measured:
    marks = Marks(5 * GIB, GIB)
    return Measured(free, 100 * GIB, marks, inodes, 20_000, Marks(1000, 100))


@pytest.mark.parametrize(
    ("free", "inodes", "word"),
    [
        (5 * GIB, 1000, None),
        (5 * GIB - 1, 1000, "associations are rejected for now"),
        (GIB - 1, 1000, "instances are refused (A700)"),
        (5 * GIB, 999, "999 free inodes"),
    ],
)
def test_marks_of_free_space(free: int, inodes: int, word: str | None) -> None:
    warning = space_warning(now(free, inodes))
    assert (warning is None) == (word is None)
    assert (word or "") in (warning or "")


def test_a_file_system_without_inodes_has_no_mark_for_them() -> None:
    assert space_warning(now(5 * GIB, 0)._replace(inode_marks=None)) is None


@pytest.fixture
def in_memory() -> Iterator[Path]:
    assert kind_of(IN_MEMORY) == "tmpfs"
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        yield Path(directory)


def test_a_file_system_in_memory_is_doubtful(in_memory: Path) -> None:
    why = doubtful(in_memory)
    assert why is not None
    assert "nothing in it survives a power cut" in why


def test_a_start_says_so_and_starts(start: Gateways) -> None:
    own = start(storage=f"soft_reserve_bytes = {1 << 60}")
    own.wait_for(r"configuration_warning .*below soft_reserve_bytes")
