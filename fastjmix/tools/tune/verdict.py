"""Effects → advice, and one sentence on the bottleneck. No I/O.

Guaranteed: nothing is recommended that does not pay more than noise, and nothing that gives up
integrity or durability: what those would gain is said, with what is given up. A safety that is off
and costs nothing here is recommended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fastjmix.tools.tune.effects import LEAST_GAIN, QUIET, TRADED, Effect, Findings, percent
from fastjmix.tools.tune.plan import FACTORS, MIN_ROUNDS, Setting

BOUND: Final = 0.75
"""Sender and loopback that need this part of the time leave little to tune."""

GIVEN_UP: Final = {
    "skip_hashing": "no digests in the manifest: damage goes unnoticed",
    "durability": "a power failure may lose images that were acknowledged",
}
REMARKS: Final = {"digest": "if the readers of your envelopes know it"}


@dataclass(frozen=True, slots=True)
class Advice:
    """A value for a factor. `traded` is what is given up; such a line is commented out."""

    factor: str
    value: Any
    why: str
    traded: str = ""


def advise(found: Findings) -> list[Advice]:
    """Returns what pays more than noise, factor by factor."""
    advice = []
    for factor in FACTORS:
        best = found.best(factor)
        one = None if best is None else _advice(factor, *best)
        if one is not None:
            advice.append(one)
    return advice


def _advice(factor: str, value: Any, seen: Effect) -> Advice | None:
    """Returns the advice on one factor, whose best value is `value`; None for no advice."""
    if TRADED.get(factor) == value:
        return Advice(factor, value, f"{seen} less time", GIVEN_UP[factor]) if seen.pays else None
    if factor in TRADED:
        if not (seen.is_free or seen.pays):
            return None
        why = f"costs nothing that could be measured here (± {percent(seen.noise)})"
        return Advice(factor, value, why)
    if not seen.pays:
        return None
    remark = REMARKS.get(factor) if value != "sha256" else None
    return Advice(factor, value, f"{seen} less time" + (f"; {remark}" if remark else ""))


def combination(base: Setting, advice: Sequence[Advice]) -> Setting | None:
    """Returns all that is recommended at once, to be measured too, when it is more than a value."""
    changes = {one.factor: one.value for one in advice if not one.traded}
    return replace(base, **changes) if len(changes) > 1 else None


def confirmed(found: Findings, advice: Sequence[Advice]) -> list[Advice]:
    """Returns the advice without what adds nothing to the best alone: gains do not add up.

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


# -- in words --------------------------------------------------------------------------------------

_NAMES: Final = {
    "skip_hashing": "hashing",
    "durability": "fsync",
    "max_pdu": "the PDU size",
    "digest": "the kind of digest",
    "packers": "the number of packers",
}


def sentence(found: Findings, *, complete: bool = True) -> str:
    """Returns which setting is the bottleneck on this machine, and why.

    `complete`: all settings were tried.
    """
    gains = {factor: best for factor in FACTORS if (best := found.best(factor))}
    rounds = max((seen.rounds for _, seen in gains.values()), default=0)
    if rounds < MIN_ROUNDS:
        return f"{rounds} rounds are too few to tell a bottleneck from noise."
    here = "on this machine" if complete else "on this machine, of what there was time to try"
    costs = [_cost(factor, value, seen, found.base) for factor, (value, seen) in gains.items()]
    floor = f"the sender and the loopback alone need {percent(found.floor)} of the time"
    return f"{_bottleneck(found, gains, here)}{', '.join(costs)}; {floor}."


def _bottleneck(found: Findings, gains: Mapping[str, tuple[Any, Effect]], here: str) -> str:
    """Returns the beginning of the sentence: it names the bottleneck."""
    paying = {
        factor: seen.saved
        for factor, (value, seen) in gains.items()
        if seen.pays and TRADED.get(factor, value) == value  # a safety that is off costs nothing
    }
    most = max(paying, key=lambda factor: paying[factor], default="")
    if most and (found.floor < BOUND or paying[most] >= (1 - found.floor) / 2):
        name = _NAMES[most]
        shown = name if most == "durability" else name[0].upper() + name[1:]  # fsync is a name
        return f"{shown} is the bottleneck {here}: "
    if found.floor >= BOUND:
        return f"The sender and the loopback are the bottleneck {here}: "
    pair = _hidden(found)
    if pair is not None:
        return (
            f"Hashing and fsync together are the bottleneck {here}, since each hides behind the"
            f" other: without both it takes {pair} less time; "
        )
    if any(seen.is_open for _, seen in gains.values()):
        return f"It is too noisy to name a bottleneck {here}; give it more --seconds: "
    return f"No setting is the bottleneck {here}, receiving itself is: "


def _hidden(found: Findings) -> Effect | None:
    """Returns the effect of hashing and fsync off together, if it pays and neither does alone."""
    both = replace(found.base, skip_hashing=True, durability="page-cache")
    seen = found.effects.get(both)
    return seen if seen is not None and len(both.changes(found.base)) > 1 and seen.pays else None


def _cost(factor: str, value: Any, seen: Effect, base: Setting) -> str:
    """Returns "hashing costs 31 % (± 2 %)", or what it would cost where it is off."""
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
