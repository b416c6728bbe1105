"""Policy, second half: figures → effects → one sentence → TOML to paste. No I/O.

Wanted: what a setting costs on this machine, told apart from noise, in words and as TOML.
Guaranteed: ratios are made within a round, where both were measured in the same seconds, and their
median counts. Nothing is recommended that does not pay more than noise, and nothing that gives up
integrity or durability: what those would gain is said, commented out, with what is given up.
The other way round, a safety that is off and costs nothing here is recommended.
Noise is the interval that holds the true median with 93 %, and no less than what the same setting
differed from itself, or a setting that does less work was slower by.
Still wrong: of ten settings one may pass for better or worse than it is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fastjmix.tools.tune.plan import FACTORS, MIN_ROUNDS, Setting, Trial

LEAST_GAIN: Final = 0.03
"""Less than 3 % is not worth a line in a file, whatever the statistics say."""

QUIET: Final = 0.10
"""Only where the noise is below this does "no difference seen" mean that there is none."""

BOUND: Final = 0.75
"""Sender and loopback that need this part of the time leave little to tune."""

CONFIDENCE: Final = 0.93
"""With this probability the true median lies within the noise; five rounds are just enough."""

TRADED: Final = {"skip_hashing": True, "durability": "page-cache"}
"""Values that are never recommended, because something is given up."""

GIVEN_UP: Final = {
    "skip_hashing": "no digests in the manifest: damage goes unnoticed",
    "durability": "a power failure may lose images that were acknowledged",
}
REMARKS: Final = {"digest": "if the readers of your envelopes know it"}


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one trial; one entry in `seconds` and `cpu` for each round."""

    trial: Trial
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    latencies: tuple[float, ...]
    instances: int  # in each round
    size: int  # bytes of data sets in each round

    @property
    def rate(self) -> float:
        """Bytes a second, in the median round."""
        return self.size / statistics.median(self.seconds)

    @property
    def instance_rate(self) -> float:
        return self.instances / statistics.median(self.seconds)

    @property
    def cpu_per_gb(self) -> float:
        """CPU seconds per 10⁹ bytes, over all rounds (the kernel's clock ticks are coarse)."""
        return sum(self.cpu) / (self.size * len(self.cpu)) * 1e9

    def latency(self, part: float) -> float:
        """The response latency that this part of the instances did not exceed, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Effect:
    """A setting against the configured one: `saved` is the part of its time that goes away
    (negative: that comes), `noise` what chance alone may make of it."""

    saved: float
    noise: float
    rounds: int

    @property
    def threshold(self) -> float:
        return max(self.noise, LEAST_GAIN)

    @property
    def pays(self) -> bool:
        return self.rounds >= MIN_ROUNDS and self.saved > self.threshold

    @property
    def is_open(self) -> bool:
        """It may pay, and noise hides whether it does."""
        return self.noise >= QUIET and not self.pays and self.saved + self.noise > LEAST_GAIN

    @property
    def is_free(self) -> bool:
        """It costs nothing, and that could have been seen."""
        quiet = self.noise < QUIET and self.rounds >= MIN_ROUNDS
        return quiet and -self.saved <= self.threshold

    def __str__(self) -> str:
        return f"{percent(self.saved)} (± {percent(self.noise)})"


def percent(part: float) -> str:
    """Whole per cent, and never "-0"."""
    return "∞ %" if math.isinf(part) else f"{round(part * 100)} %"


def effect(base: Sequence[float], other: Sequence[float]) -> Effect:
    """Of two series of seconds, measured in the same rounds."""
    pairs = list(zip(base, other, strict=False))
    if not pairs:
        return Effect(0.0, math.inf, 0)
    ratios = [theirs / ours for ours, theirs in pairs]
    middle = statistics.median(ratios)
    low, high = _interval(sorted(ratios))
    return Effect(1 - middle, max(high - middle, middle - low), len(ratios))


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Between which the true median lies with CONFIDENCE, whatever the distribution (sign test);
    of fewer than five values the least and the most."""
    count, left_out = len(ordered), 0
    outside = 2 * 0.5**count
    while outside + 2 * math.comb(count, left_out + 1) * 0.5**count <= 1 - CONFIDENCE:
        left_out += 1
        outside += 2 * math.comb(count, left_out) * 0.5**count
    return ordered[left_out], ordered[-1 - left_out]


@dataclass(frozen=True, slots=True)
class Findings:
    """All effects by trial, and what sender and loopback alone need (a part of the configured
    setting's time)."""

    base: Setting
    effects: Mapping[Setting, Effect]
    floor: float
    control: Effect | None = None

    def single(self, factor: str) -> dict[Any, Effect]:
        """Effects of trials in which only this factor differs, by its value."""
        found = {}
        for setting, seen in self.effects.items():
            changes = setting.changes(self.base)
            if changes.keys() == {factor}:
                found[changes[factor]] = seen
        return found

    def best(self, factor: str) -> tuple[Any, Effect] | None:
        """The value of this factor alone that saves most."""
        found = self.single(factor)
        return max(found.items(), key=lambda item: item[1].saved) if found else None


def findings(all_figures: Sequence[Figures], floor: Sequence[float]) -> Findings:
    """The first figures are the configured setting's; `floor` is seconds of the bare sender."""
    first, base = all_figures[0], all_figures[0].trial.setting
    seen = {one.trial: effect(first.seconds, one.seconds) for one in all_figures[1:]}
    control = next((one for trial, one in seen.items() if trial.setting == base), None)
    effects = {trial.setting: one for trial, one in seen.items() if trial.setting != base}
    doubt = _doubt(base, effects, control)
    effects = {one: replace(found, noise=max(found.noise, doubt)) for one, found in effects.items()}
    return Findings(base, effects, 1 - effect(first.seconds, floor).saved, control)


def _doubt(base: Setting, effects: Mapping[Setting, Effect], control: Effect | None) -> float:
    """Returns what was measured and cannot be: a setting that differs from itself, less work that
    takes longer, more work that takes less."""
    wrong = [0.0] if control is None else [abs(control.saved), control.noise]
    for setting, seen in effects.items():
        changes = setting.changes(base)
        off = {TRADED.get(factor, ...) == value for factor, value in changes.items()}
        if changes.keys() <= TRADED.keys() and len(off) == 1:
            against = -seen.saved if off == {True} else seen.saved
            wrong.append(against if against > seen.noise else 0.0)
    return max(wrong)


# -- what to do ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Advice:
    """A value for a factor. `traded` is what is given up; such a line is commented out."""

    factor: str
    value: Any
    why: str
    traded: str = ""


def advise(found: Findings) -> list[Advice]:
    """What pays more than noise, factor by factor."""
    advice = []
    for factor in FACTORS:
        best = found.best(factor)
        if best is None:
            continue
        value, seen = best
        if TRADED.get(factor) == value:
            if seen.pays:
                advice.append(Advice(factor, value, f"{seen} less time", GIVEN_UP[factor]))
        elif factor in TRADED:
            if seen.is_free or seen.pays:
                why = f"costs nothing that could be measured here (± {percent(seen.noise)})"
                advice.append(Advice(factor, value, why))
        elif seen.pays:
            remark = REMARKS.get(factor) if value != "sha256" else None
            why = f"{seen} less time" + (f"; {remark}" if remark else "")
            advice.append(Advice(factor, value, why))
    return advice


def combination(base: Setting, advice: Sequence[Advice]) -> Setting | None:
    """All that is recommended at once, when that is more than one thing: to be measured too."""
    changes = {one.factor: one.value for one in advice if not one.traded}
    return replace(base, **changes) if len(changes) > 1 else None


def confirmed(found: Findings, advice: Sequence[Advice]) -> list[Advice]:
    """Without what adds nothing to the best alone: gains do not add up.

    `found` has the combination's effect; without it nothing is taken away.
    """
    together = combination(found.base, advice)
    seen = found.effects.get(together) if together else None
    if seen is None:
        return list(advice)
    paying = {one.factor: found.single(one.factor)[one.value].saved for one in advice}
    gains = [one for one in advice if not one.traded and one.factor not in TRADED]
    if len(gains) < 2:
        return list(advice)
    best = max(gains, key=lambda one: paying[one.factor])
    if seen.saved - paying[best.factor] > max(seen.noise, LEAST_GAIN):
        return list(advice)
    return [one for one in advice if one is best or one not in gains]


# -- in words --------------------------------------------------------------------------------------

_NAMES: Final = {
    "skip_hashing": "hashing",
    "durability": "fsync",
    "max_pdu": "the PDU size",
    "digest": "the kind of digest",
    "packers": "the number of packers",
}


def sentence(found: Findings, *, complete: bool = True) -> str:
    """Which setting is the bottleneck on this machine, and why. `complete`: all were tried."""
    gains = {factor: best for factor in FACTORS if (best := found.best(factor))}
    rounds = max((seen.rounds for _, seen in gains.values()), default=0)
    if rounds < MIN_ROUNDS:
        return f"{rounds} rounds are too few to tell a bottleneck from noise."
    here = "on this machine" if complete else "on this machine, of what there was time to try"
    told = [_cost(factor, value, seen, found.base) for factor, (value, seen) in gains.items()]
    floor = f"the sender and the loopback alone need {percent(found.floor)} of the time"
    rest = f"{', '.join(told)}; {floor}."
    paying = {
        factor: seen.saved
        for factor, (value, seen) in gains.items()
        if seen.pays and TRADED.get(factor, value) == value  # a safety that is off costs nothing
    }
    most = max(paying, key=lambda factor: paying[factor], default="")
    if most and (found.floor < BOUND or paying[most] >= (1 - found.floor) / 2):
        name = _NAMES[most]
        shown = name if most == "durability" else name[0].upper() + name[1:]  # fsync is a name
        return f"{shown} is the bottleneck {here}: {rest}"
    if found.floor >= BOUND:
        return f"The sender and the loopback are the bottleneck {here}: {rest}"
    pair = _hidden(found)
    if pair is not None:
        return (
            f"Hashing and fsync together are the bottleneck {here}, since each hides behind the"
            f" other: without both it takes {pair} less time; {rest}"
        )
    if any(seen.is_open for _, seen in gains.values()):
        return f"It is too noisy to name a bottleneck {here}; give it more --seconds: {rest}"
    return f"No setting is the bottleneck {here}, receiving itself is: {rest}"


def _hidden(found: Findings) -> Effect | None:
    """Hashing and fsync off together, if that pays while neither does alone."""
    both = replace(found.base, skip_hashing=True, durability="page-cache")
    seen = found.effects.get(both)
    return seen if seen is not None and len(both.changes(found.base)) > 1 and seen.pays else None


def _cost(factor: str, value: Any, seen: Effect, base: Setting) -> str:
    """ "hashing costs 31 % (± 2 %)", or what it would cost where it is off."""
    if factor in TRADED:
        off = getattr(base, factor) == TRADED[factor]
        cost = replace(seen, saved=-seen.saved) if off else seen
        verb = f"{_NAMES[factor]}, which is off, would cost" if off else f"{_NAMES[factor]} costs"
        if cost.saved <= cost.threshold:
            what = "nothing measurable" if cost.noise < QUIET else "what noise hides"
            return f"{verb} {what} (± {percent(cost.noise)})"
        return f"{verb} {cost}"
    if not seen.pays:
        hidden = seen.noise >= QUIET and seen.saved > -seen.threshold
        what = f"what noise hides (± {percent(seen.noise)})" if hidden else "nothing measurable"
        return f"{_NAMES[factor]} costs {what}"
    return f"{_NAMES[factor]} costs {seen} against {value}"


# -- as TOML ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Places:
    """Where the site's keys stand: names of its tables, and the files that hold them, by name."""

    builder: str
    builder_file: str
    endpoint: str
    endpoint_file: str
    main_file: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def held(self, factor: str) -> Mapping[str, Any] | None:
        """The table that a factor's key belongs to, as the file has it; None: it has none."""
        file, _ = self.table(factor)
        path = {
            "packers": ("fastjmix",),
            "max_pdu": ("endpoints", self.endpoint, "options"),
        }.get(factor, ("middleware", self.builder, "options"))
        found: Any = self.files.get(file)
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else None

    def table(self, factor: str) -> tuple[str, str]:
        """(file, table) of a factor's key."""
        if factor == "packers":
            return self.main_file, "fastjmix"
        if factor == "max_pdu":
            return self.endpoint_file, f"endpoints.{_quoted(self.endpoint)}.options"
        return self.builder_file, f"middleware.{_quoted(self.builder)}.options"


def places(files: Sequence[tuple[str, Mapping[str, Any]]], pipeline: str, endpoint: str) -> Places:
    """Finds the tables of one listener; `files` are names and raw tables, the main file first."""
    main = files[0][0] if files else "config.toml"
    builder = "jmix_builder"
    for _, tables in files:
        middleware = _at(tables, "pipelines", pipeline).get("middleware", [])
        if isinstance(middleware, Mapping):
            middleware = [*middleware.get("left", []), *middleware.get("right", [])]
        for name in middleware:
            kinds = [_at(held, "middleware", name).get("type") for _, held in files]
            if "jmix_builder" in kinds:
                builder = name

    def holder(family: str, name: str) -> str:
        return next((file for file, tables in files if _at(tables, family, name)), main)

    return Places(
        builder,
        holder("middleware", builder),
        endpoint,
        holder("endpoints", endpoint),
        main,
        dict(files),
    )


def nothing(found: Findings, advice: Sequence[Advice]) -> str:
    """Says why nothing is recommended; "" where something is."""
    seen = [best[1] for factor in FACTORS if (best := found.best(factor))]
    if any(not one.traded for one in advice):
        return ""
    if max((one.rounds for one in seen), default=0) < MIN_ROUNDS:
        return "no advice: too few rounds; give it more --seconds"
    if advice:
        return "nothing is recommended: what saves time here gives something up"
    most = max((one.noise for one in seen if one.is_open), default=0.0)
    if most:
        return f"no advice: chance alone makes ± {percent(most)} here; give it more --seconds"
    return "nothing to change: no setting pays more than noise"


def toml(advice: Sequence[Advice], where: Places, why_nothing: str = "") -> str:
    """The lines to paste, each under its table and file; above them why there is none.

    A table that the file has, and a key that the table has, may stand there only once: it is said.
    """
    lines: list[str] = []
    tables: dict[tuple[str, str], list[str]] = {}
    for one in advice:
        held = where.held(one.factor)
        into = "" if held is None else ", in its table that is there"
        line = f"{one.factor} = {_literal(one.value)}"
        if one.traded:
            told = f"# {line}  # not recommended: {one.why}, but {one.traded}"
        else:
            old = None if held is None else held.get(one.factor)
            told = f"{line}  # {'' if old is None else f'instead of {_literal(old)}: '}{one.why}"
        file, table = where.table(one.factor)
        tables.setdefault((f"{file}{into}", table), []).append(told)
    for (place, table), keys in tables.items():
        lines += [f"# in {place}", f"[{table}]", *keys, ""]
    if why_nothing:
        lines = [f"# {why_nothing}", "", *lines]
    return "\n".join(lines).rstrip("\n") + "\n"


def _at(tables: Mapping[str, Any], family: str, name: str) -> Mapping[str, Any]:
    held = tables.get(family)
    found = held.get(name) if isinstance(held, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _quoted(name: str) -> str:
    return name if name and name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'
