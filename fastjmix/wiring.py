"""What receivers and packers share, and nobody else: the lanes, and who wakes whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastjmix.lane import Passage


@dataclass(frozen=True, slots=True)
class Wiring:
    """`wake` holds an eventfd a process: receivers first, then packers."""

    passage: Passage
    wake: Sequence[int]
    receivers: int
    packers: int
