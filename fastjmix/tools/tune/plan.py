"""Which settings are tried, in which order, and for how long. No I/O.

Guaranteed: one factor at a time around the configured setting, then the pairs of which each may
hide the cost of the other; the most informative first, so that a short time leaves out the least;
no setting twice. The full grid of five factors would take hours.
Still wrong: three factors that only together make a difference are not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, TypeVar

MIN_ROUNDS: Final = 5
"""The median lies between the least and the most of five with 94 %: of fewer nothing is stated."""

MAX_ROUNDS: Final = 25

LEAST_SHARE: Final = 1 / 16
"""This part of the sample is sent in any case, first of all to see how fast this machine is."""

LARGEST_PDU: Final = 131_072
SMALLEST_PDU: Final = 16_384
"""The bounds of the configuration; many senders announce 16384 themselves."""

CONFIGURED: Final = "configured"

CONTROL: Final = "configured, again"
"""A second gateway with the same setting: by as much as it differs, any other may by chance."""

FACTORS: Final = ("skip_hashing", "digest", "max_pdu", "durability", "packers")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Setting:
    """One value of each factor."""

    skip_hashing: bool
    digest: str
    max_pdu: int
    durability: str
    packers: int

    def changes(self, base: Setting) -> dict[str, Any]:
        """Returns the factors in which this differs, with this one's values. A digest that is not
        made is no difference."""
        mine, others = asdict(self), asdict(base)
        if self.skip_hashing:
            mine.pop("digest")
        return {factor: value for factor, value in mine.items() if value != others[factor]}


@dataclass(frozen=True, slots=True)
class Trial:
    """A setting to be measured, and the name of its row."""

    name: str
    setting: Setting


def plan(base: Setting, processors: int, *, any_digest: bool = True) -> tuple[Trial, ...]:
    """Returns the trials around the configured setting, the most informative first.

    `any_digest` False: the profile knows no other than the configured one.
    """
    hashing = replace(base, skip_hashing=not base.skip_hashing)
    page_cache = base.durability == "page-cache"
    disk = replace(base, durability="fsync" if page_cache else "page-cache")
    # Only where digests are made does it matter which; else the question is whether at all.
    digest = replace(base, skip_hashing=False)
    if any_digest and not base.skip_hashing:
        digest = replace(digest, digest=_other(base.digest))
    bare = replace(base, skip_hashing=True, durability="page-cache")
    packers = [replace(base, packers=count) for count in _packers(base.packers, processors)]
    wanted = [
        base,
        hashing,
        disk,
        digest,
        replace(base, max_pdu=LARGEST_PDU),
        *packers[:1],
        bare,
        replace(base, max_pdu=SMALLEST_PDU),
        replace(digest, durability=disk.durability),
        *packers[1:],
        replace(base, max_pdu=LARGEST_PDU // 2),
        *(replace(digest, packers=one.packers) for one in packers[:1]),
    ]
    return tuple(Trial(named(one, base), one) for one in _distinct(wanted, base))


def named(setting: Setting, base: Setting) -> str:
    """Returns the name of a row: "durability=page-cache, packers=2"."""
    changes = setting.changes(base)
    return ", ".join(f"{factor}={_word(value)}" for factor, value in changes.items()) or CONFIGURED


def fit(trials: Sequence[_T], round_secs: float, start_secs: float, budget: float) -> list[_T]:
    """Returns as many of the first trials as get MIN_ROUNDS rounds in `budget` seconds.

    `round_secs` is one trial's part of a round; each trial also costs its start and one round to
    warm up. At least the first.
    """
    each = start_secs + (MIN_ROUNDS + 1) * round_secs
    affordable = int(budget / max(each, 1e-6))
    return list(trials[: max(1, affordable)])


def share(trials: int, round_secs: float, start_secs: float, budget: float) -> float:
    """Returns the part of the sample that leaves so many trials MIN_ROUNDS in `budget` seconds.

    A round with all of it lasts `round_secs`. At most 1, and no less than LEAST_SHARE.
    """
    each = (budget / trials - start_secs) / (MIN_ROUNDS + 1)
    return min(1.0, max(LEAST_SHARE, each / max(round_secs, 1e-6)))


def another(rounds: int, lasted: float, left: float, *, settled: bool = False) -> bool:
    """Returns whether to make one more round, when one takes `lasted` seconds and `left` are left.

    `settled`: what was measured allows a statement already. One round is made in any case.
    """
    if not rounds:
        return True
    return rounds < MAX_ROUNDS and lasted <= left and not (settled and rounds >= MIN_ROUNDS)


def in_turn(things: Sequence[_T], turn: int) -> list[_T]:
    """Returns the order within a round: each begins once, so that none always follows the same."""
    at = turn % len(things) if things else 0
    turned = [*things[at:], *things[:at]]
    return turned[::-1] if turn // max(len(things), 1) % 2 else turned


def shares(sizes: Sequence[int], parts: int) -> list[range]:
    """Returns at most `parts` runs of a sequence, of about as many bytes each; none is empty.

    Runs, so that a study mostly goes over one association.
    """
    parts = max(1, min(parts, len(sizes)))
    total = sum(sizes)
    cuts, done = [0], 0
    for index, size in enumerate(sizes):
        left = parts - len(cuts)  # cuts that are still to be made
        if left and index > cuts[-1]:
            full = done + size / 2 >= total * len(cuts) / parts
            if full or len(sizes) - index <= left:
                cuts.append(index)
        done += size
    return [range(a, b) for a, b in zip(cuts, [*cuts[1:], len(sizes)], strict=True)]


def _other(digest: str) -> str:
    return "sha256" if digest == "blake3" else "blake3"


def _packers(configured: int, processors: int) -> list[int]:
    """Returns other numbers of packers: twice as many, up to the processors; then half as many."""
    more = min(configured * 2, max(processors, 1))
    return [count for count in (more, configured // 2) if count >= 1 and count != configured]


def _distinct(settings: Sequence[Setting], base: Setting) -> list[Setting]:
    found: dict[str, Setting] = {}
    for one in settings:
        found.setdefault(named(one, base), one)
    return list(found.values())


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
