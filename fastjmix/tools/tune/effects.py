"""Figures → effects: what another setting saves, and what chance alone may make of it. No I/O.

Guaranteed: ratios are made within a round, where both were measured in the same seconds, and their
median counts. Noise is the interval that holds the true median with 93 %, and no less than what the
same setting differed from itself, or a setting that does less work was slower by.
Still wrong: of ten settings one may pass for better or worse than it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fastjmix.tools.tune.plan import MIN_ROUNDS, Setting, Trial

LEAST_GAIN: Final = 0.03
"""Less than 3 % is not worth a line in a file, whatever the statistics say."""

QUIET: Final = 0.10
"""Only where the noise is below this does "no difference seen" mean that there is none."""

CONFIDENCE: Final = 0.93
"""With this probability the true median lies within the noise; five rounds are just enough."""

TRADED: Final = {"skip_hashing": True, "durability": "page-cache"}
"""Values that are never recommended, because something is given up."""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one trial; `seconds` and `cpu` have an entry for each round."""

    trial: Trial
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    latencies: tuple[float, ...]
    instances: int  # in each round
    size: int  # bytes of data sets in each round

    @property
    def rate(self) -> float:
        """Returns bytes a second, in the median round."""
        return self.size / statistics.median(self.seconds)

    @property
    def instance_rate(self) -> float:
        """Returns instances a second, in the median round."""
        return self.instances / statistics.median(self.seconds)

    @property
    def cpu_per_gb(self) -> float:
        """Returns CPU seconds per 10⁹ bytes, over all rounds, as the kernel's ticks are coarse."""
        return sum(self.cpu) / (self.size * len(self.cpu)) * 1e9

    def latency(self, part: float) -> float:
        """Returns the response latency that this part of the instances did not exceed, in
        seconds."""
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Effect:
    """A setting against the configured one: `saved` is the part of the time that it saves
    (negative: that it costs), `noise` the difference that chance alone may make."""

    saved: float
    noise: float
    rounds: int

    @property
    def threshold(self) -> float:
        """Returns what a saving must exceed to count."""
        return max(self.noise, LEAST_GAIN)

    @property
    def pays(self) -> bool:
        """Returns whether it saves more than noise, and enough for a line in a file."""
        return self.rounds >= MIN_ROUNDS and self.saved > self.threshold

    @property
    def is_open(self) -> bool:
        """Returns whether it may pay, and noise hides whether it does."""
        return self.noise >= QUIET and not self.pays and self.saved + self.noise > LEAST_GAIN

    @property
    def is_free(self) -> bool:
        """Returns whether it costs nothing, in noise so low that a cost would have been seen."""
        quiet = self.noise < QUIET and self.rounds >= MIN_ROUNDS
        return quiet and -self.saved <= self.threshold

    def __str__(self) -> str:
        return f"{percent(self.saved)} (± {percent(self.noise)})"


def percent(part: float) -> str:
    """Returns whole per cent, and never "-0"."""
    return "∞ %" if math.isinf(part) else f"{round(part * 100)} %"


def effect(base: Sequence[float], other: Sequence[float]) -> Effect:
    """Returns the effect between two series of seconds, measured in the same rounds."""
    pairs = list(zip(base, other, strict=False))
    if not pairs:
        return Effect(0.0, math.inf, 0)
    ratios = [theirs / ours for ours, theirs in pairs]
    middle = statistics.median(ratios)
    low, high = _interval(sorted(ratios))
    return Effect(1 - middle, max(high - middle, middle - low), len(ratios))


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Returns between which values the true median lies with CONFIDENCE, whatever the distribution
    (sign test); of fewer than five values the least and the most."""
    count, left_out = len(ordered), 0
    outside = 2 * 0.5**count
    while outside + 2 * math.comb(count, left_out + 1) * 0.5**count <= 1 - CONFIDENCE:
        left_out += 1
        outside += 2 * math.comb(count, left_out) * 0.5**count
    return ordered[left_out], ordered[-1 - left_out]


@dataclass(frozen=True, slots=True)
class Findings:
    """All effects by trial. `floor` is the part of the configured setting's time that sender and
    loopback alone need."""

    base: Setting
    effects: Mapping[Setting, Effect]
    floor: float
    control: Effect | None = None

    def single(self, factor: str) -> dict[Any, Effect]:
        """Returns effects of trials in which only this factor differs, by its value."""
        found = {}
        for setting, seen in self.effects.items():
            changes = setting.changes(self.base)
            if changes.keys() == {factor}:
                found[changes[factor]] = seen
        return found

    def best(self, factor: str) -> tuple[Any, Effect] | None:
        """Returns the value of this factor alone that saves most, and its effect."""
        found = self.single(factor)
        return max(found.items(), key=lambda item: item[1].saved) if found else None


def findings(all_figures: Sequence[Figures], floor: Sequence[float]) -> Findings:
    """Returns the findings. The first figures are the configured setting's; `floor` is seconds of
    the sender and the loopback alone."""
    first, base = all_figures[0], all_figures[0].trial.setting
    seen = {one.trial: effect(first.seconds, one.seconds) for one in all_figures[1:]}
    control = next((one for trial, one in seen.items() if trial.setting == base), None)
    effects = {trial.setting: one for trial, one in seen.items() if trial.setting != base}
    noise = _impossible(base, effects, control)
    effects = {one: replace(found, noise=max(found.noise, noise)) for one, found in effects.items()}
    return Findings(base, effects, 1 - effect(first.seconds, floor).saved, control)


def _impossible(base: Setting, effects: Mapping[Setting, Effect], control: Effect | None) -> float:
    """Returns the largest difference that was measured and cannot be: a setting that differs from
    itself, less work that takes longer, more work that takes less."""
    wrong = [0.0] if control is None else [abs(control.saved), control.noise]
    for setting, seen in effects.items():
        changes = setting.changes(base)
        off = {TRADED.get(factor, ...) == value for factor, value in changes.items()}
        if changes.keys() <= TRADED.keys() and len(off) == 1:
            against = -seen.saved if off == {True} else seen.saved
            wrong.append(against if against > seen.noise else 0.0)
    return max(wrong)
