"""The demands of the supervisor while it drains, and the others' answers: one shared page.

Guaranteed: a demand is one cell, so that a process sees all of it or none. A demand has a number,
which rises; a process answers with the number of the demand that it has met. So an answer to an
earlier demand is none to a later one. A look costs no system call, some 0.2 µs by timeit.

    process     has met a demand of the drain when
    receiver    no association is open, none can begin, and no peer that was accepted waits for one
    packer      each envelope that it had is sealed, or waits for its next attempt
    uploader    it has listed outbox/ since, and can deliver nothing more now
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple


class Intake(IntEnum):
    """How peers that ask for an association are treated.

    OPEN: they are served. REJECTED: each is rejected for now. WAITING: at a socket that outlives
    this process nobody accepts them, so that its successor serves them; elsewhere each is rejected.
    """

    OPEN = 0
    REJECTED = 1
    WAITING = 2


class Demand(NamedTuple):
    """The number of a demand, and what it says."""

    number: int
    intake: Intake


NO_DEMAND: Final = Demand(0, Intake.OPEN)

_KINDS: Final = len(Intake)

_OPEN: Final = 0  # Intake.OPEN: Python 3.11 takes 0.3 µs to find an enum's member


class DrainPage:
    """The page. Made by the supervisor before it forks.

    Processes are named by their numbers: receivers first, then packers, then the uploader (-1).
    """

    def __init__(self, receivers: int = 1, packers: int = 1) -> None:
        self.receivers = range(receivers)
        self.packers = range(receivers, receivers + packers)
        count = receivers + packers + 1
        self._cells = memoryview(mmap.mmap(-1, (count + 1) * 8)).cast("Q")

    @property
    def demand(self) -> Demand:
        """The latest demand."""
        number, intake = divmod(self._cells[0], _KINDS)
        return Demand(number, Intake(intake)) if number else NO_DEMAND

    @property
    def draining(self) -> bool:
        """True while the supervisor drains."""
        return self._cells[0] % _KINDS != _OPEN

    def ask(self, intake: Intake) -> None:
        """Replaces the demand by one with the next number. Only the supervisor calls this."""
        self._cells[0] = (self._cells[0] // _KINDS + 1) * _KINDS + intake

    def answer(self, process: int, number: int) -> None:
        """Notes that a process has met the demand of that number."""
        self._cells[process if process < 0 else process + 1] = number

    def has_answered(self, process: int) -> bool:
        """Returns whether a process has met the latest demand."""
        number = self._cells[process if process < 0 else process + 1]
        return number == self._cells[0] // _KINDS

    def have_answered(self, processes: Iterable[int]) -> bool:
        """Returns whether all of these processes have met the latest demand."""
        return all(self.has_answered(one) for one in processes)


UPLOADER: Final = -1
"""The uploader's number on the page."""
