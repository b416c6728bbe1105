"""Interleaved rounds and what comes of them: rows, goals, ratios.

Wanted: numbers that can be compared although the machine's speed drifts: A B C, C B A, … and not
A A A, B B B. Every second round goes backwards, so that nobody always runs behind the same other.
Guaranteed: before each run the earlier output is removed and `sync` is called (without that the
dirty pages of one receiver are written while the next is timed, and ratios swing by a factor of
two). Each timed run follows an untimed one of the same receiver: memory that was free for a while
may have gone back to the hypervisor, and taking it again costs a run up to three times its
processor time, whichever receiver it is that finds the memory gone. After each run, timed or not,
the output is checked. What fails is left out of the later rounds and reported with its reason; the
others go on.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

OURS: Final = "fastjmix"


def say(text: str) -> None:
    """Progress, for a person who waits."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Contestant:
    """One receiver in a row. `run` gives seconds; `rounds` bounds how often a slow one is timed.

    A contestant with such a bound takes too long to be run for nothing: it has no untimed runs.
    """

    name: str
    clear: Callable[[], None]
    run: Callable[[], float]
    check: Callable[[], None]
    rounds: int | None = None
    command: str = ""

    def once(self) -> float:
        """A run from an empty, quiet disk, and the check of what came of it; seconds of the run."""
        self.clear()
        os.sync()
        seconds = self.run()
        self.check()
        return seconds


@dataclass(slots=True)
class Goal:
    """`value` (None: not measured, `reason` says why) is to be at most or at least `limit`."""

    text: str
    value: float | None
    limit: float
    sense: Literal["at most", "at least"]
    unit: str = "×"
    reason: str = ""

    @property
    def met(self) -> bool | None:
        if self.value is None:
            return None
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit


@dataclass(slots=True)
class Row:
    """One goal of the issue: what was measured, and what that says of it.

    `times` are values of each round by contestant, in `unit`; `failed` are reasons by contestant.
    """

    name: str
    title: str
    work: str = ""
    unit: str = "s"
    times: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def median(self, name: str) -> float | None:
        values = self.times.get(name)
        return statistics.median(values) if values else None

    def compare(
        self,
        text: str,
        over: str,
        under: str,
        limit: float,
        sense: Literal["at most", "at least"] = "at most",
    ) -> None:
        """A goal for the ratio of two contestants' medians."""
        above, below = self.median(over), self.median(under)
        if above is None or below is None:
            lacking = over if above is None else under
            reason = f"{lacking}: {self.failed.get(lacking, 'not measured')}"
            self.goals.append(Goal(text, None, limit, sense, reason=reason))
        else:
            self.goals.append(Goal(text, above / below, limit, sense))

    def require(self, text: str, name: str, limit: float, unit: str) -> None:
        """A goal for a contestant's own median."""
        value = self.median(name)
        reason = "" if value is not None else self.failed.get(name, "not measured")
        self.goals.append(Goal(text, value, limit, "at most", unit, reason))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "work": self.work,
            "unit": self.unit,
            "times": self.times,
            "medians": {name: self.median(name) for name in self.times},
            "failed": self.failed,
            "commands": self.commands,
            "goals": [
                {
                    "text": goal.text,
                    "value": goal.value,
                    "limit": goal.limit,
                    "sense": goal.sense,
                    "unit": goal.unit,
                    "met": goal.met,
                    "reason": goal.reason,
                }
                for goal in self.goals
            ],
            "remarks": self.remarks,
            "seconds": self.seconds,
        }


def row_from(held: Mapping[str, Any]) -> Row:
    """A row as `as_json` left it."""
    row = Row(held["name"], held["title"], held["work"], held["unit"])
    row.times, row.failed, row.commands = held["times"], held["failed"], held["commands"]
    row.remarks, row.seconds = held["remarks"], held["seconds"]
    for goal in held["goals"]:
        kept = {key: value for key, value in goal.items() if key != "met"}
        row.goals.append(Goal(**kept))
    return row


def interleave(row: Row, contestants: Sequence[Contestant], rounds: int) -> None:
    """Runs them in turns, and adds the times of `rounds` rounds to the row."""
    for number in range(1, rounds + 1):
        for one in contestants if number % 2 else reversed(contestants):
            if one.name in row.failed or number > (one.rounds or rounds):
                continue
            try:
                if one.rounds is None:
                    one.once()
                seconds = one.once()
            except Exception as problem:
                row.failed[one.name] = f"{type(problem).__name__}: {problem}"[:300]
                row.times.pop(one.name, None)
                say(f"{row.name}   {one.name} failed: {row.failed[one.name]}")
                continue
            if one.command:
                row.commands[one.name] = one.command
            row.times.setdefault(one.name, []).append(seconds)
            say(f"{row.name}   round {number:<2} {one.name:32} {seconds:8.3f} s")
    for one in contestants:  # the next row's receivers find an empty, quiet disk
        if one.name not in row.failed:
            one.clear()
