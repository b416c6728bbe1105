"""api/listings.py: an envelope is seen wherever it moves between two of the listings."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastjmix.api import listings
from fastjmix.api.listings import UNCHANGED, Changes, Listings
from fastjmix.spool import Spool
from fastjmix.spool.standing import SEARCHED

ID = "550e8400-e29b-41d4-a716-446655440000"
WAY = ("building", "outbox", "rejected", "outbox", "sent")
"""The longest way: refused, put back by a person, delivered."""


def place(spool: Spool, state: str) -> Path:
    return spool.root / state / (ID if state == "building" else f"{ID}.zip")


def put(spool: Spool, state: str) -> None:
    path = place(spool, state)
    if state == "building":
        path.mkdir()
    else:
        path.write_bytes(b"")


def take(spool: Spool, state: str) -> None:
    path = place(spool, state)
    if state == "building":
        path.rmdir()
    else:
        path.unlink()


def moves() -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yields where an envelope is at first, and before which listing each of its moves happens."""
    for start in range(len(WAY)):
        for count in range(len(WAY) - start):
            gaps = range(len(SEARCHED) + 1)
            for chosen in itertools.combinations_with_replacement(gaps, count):
                yield start, chosen


def before_listing(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Calls `act` with the number of each listing, before it is made."""
    numbers = itertools.count()
    scandir = os.scandir

    def scan(path: Any) -> Any:
        act(next(numbers))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)


@pytest.mark.fault("F140")
def test_an_envelope_is_seen_wherever_it_moves(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order of its moves and of the listings, but for the one that the module names."""
    monkeypatch.setattr(listings, "SETTLE_NS", 1 << 62)  # each directory is listed each time
    missed = []
    for start, gaps in moves():
        at = start
        put(spool, WAY[at])
        one = Listings(spool)

        def act(number: int, gaps: tuple[int, ...] = gaps) -> None:
            nonlocal at
            for _ in range(gaps.count(number)):
                take(spool, WAY[at])
                at += 1
                put(spool, WAY[at])

        with monkeypatch.context() as patch:
            before_listing(patch, act)
            came, went = one.refresh()
        act(len(SEARCHED))
        if ID not in came:
            missed.append((start, gaps))
        else:
            assert went == frozenset()
            assert one.place_of(ID) in WAY[start:]
        # the next look finds where it is, and nothing else
        one.refresh()
        assert one.place_of(ID) == WAY[at]
        take(spool, WAY[at])
        assert one.refresh().went == {ID}
    # refused behind the first listing of rejected/, and put back before the second
    assert missed
    for start, gaps in missed:
        refused, back = gaps[1 - start], gaps[2 - start]
        assert refused == 2, (start, gaps)
        assert back in (3, 4), (start, gaps)


def test_what_left_before_is_not_seen(spool: Spool) -> None:
    one = Listings(spool)
    put(spool, "rejected")
    assert one.refresh() == Changes(frozenset({ID}), frozenset())
    take(spool, "rejected")
    assert one.refresh() == Changes(frozenset(), frozenset({ID}))
    assert one.refresh() == UNCHANGED


def test_unchanged_directories_are_not_listed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Listings(spool)
    for state in set(SEARCHED):
        os.utime(spool.root / state, (1, 1))
    one.refresh()
    listed: list[int] = []
    before_listing(monkeypatch, listed.append)
    assert one.refresh() == UNCHANGED
    assert listed == []
    put(spool, "outbox")
    assert one.refresh().came == {ID}
    assert listed == [0]
