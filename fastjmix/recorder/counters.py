"""Counts events by labels that an installation has few of, for /metrics.

Guaranteed: each family has LABELS_MAX combinations at most; the others are counted as OTHER. So a
peer that invents names costs no memory, and the row on the board keeps its size. The counts begin
with the process.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from fastjmix.ledger.kinds import Event, counts, text

LABELS_MAX: Final = 150
"""Combinations of labels in one family."""

LABEL_CHARS_MAX: Final = 48

OTHER: Final = "other"


class Counters:
    """Associations, instances, rejections and attempts, by their labels."""

    def __init__(self) -> None:
        self._families: dict[str, Counter[tuple[str, ...]]] = {
            "associations": Counter(),
            "instances": Counter(),
            "rejections": Counter(),
            "attempts": Counter(),
        }

    def count(self, event: Event) -> None:
        """Counts an event, if its kind is counted."""
        match event["kind"]:
            case "association":
                calling_ae = text(event, "calling_ae")
                self._add("associations", calling_ae, text(event, "how"))
                for status, number in counts(event, "statuses", int).items():
                    self._add("instances", calling_ae, status, number=int(number))
            case "rejection":
                self._add("rejections", text(event, "why"))
            case "attempt":
                self._add("attempts", text(event, "upstream"), text(event, "outcome"))

    def rows(self) -> dict[str, list[list[str | int]]]:
        """Returns the counts of each family, as [label, …, count]."""
        return {
            name: [[*labels, number] for labels, number in family.items()]
            for name, family in self._families.items()
        }

    def _add(self, name: str, *labels: str, number: int = 1) -> None:
        family = self._families[name]
        kept = tuple(_label(one) for one in labels)
        if kept not in family and len(family) >= LABELS_MAX:
            kept = (OTHER, *kept[1:]) if (OTHER, *kept[1:]) in family else (OTHER,) * len(kept)
        family[kept] += number


def _label(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:LABEL_CHARS_MAX])
