"""How much of everything: the full form, the short one of `make bench`, and one for the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Form:
    """Instances and rounds. `slow` bounds the rounds of receivers that are slow by design."""

    name: str
    rounds: int  # each a timed run, and an untimed one before it
    slow: int
    ct: int
    mr: int
    each: int  # P7: associations of one instance
    parallel: int  # P4: instances of each of 4 associations
    seals: tuple[int, ...]  # P11: instances in one envelope, ascending
    seal_rows: int  # P11: the larger instances are so many pixels square
    frames: tuple[int, ...]  # P10: MB of one multi-frame instance, ascending
    sending: int  # P10: instances of each of 16 associations
    idle_secs: float
    starts: int  # P12: how often the gateway is started


FULL: Final = Form(
    "full", 7, 3, 600, 2000, 500, 600, (2500, 5000, 10_000), 256, (300, 3000), 60, 30.0, 5
)
SHORT: Final = Form("short", 2, 1, 200, 800, 150, 120, (2500, 10_000), 128, (100, 400), 20, 5.0, 2)
SMOKE: Final = Form("smoke", 1, 1, 6, 10, 4, 8, (10, 20), 64, (1, 40), 2, 0.2, 1)
"""For tests of the harness: nothing that it says means anything."""
