"""Counts events by labels that a site or its peers choose, for /metrics.

Guaranteed: each family has LABELS_MAX combinations at most; the others are counted as OTHER. So a
peer that invents names costs no memory, and the row on the board keeps its size. A peer that is
rejected takes no combination from those that are accepted. The counts begin with the process, which
to Prometheus is a reset of a counter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from fastjmix.ipc.metric_families import OTHER
from fastjmix.ledger.kinds import Event, count, counts, text

LABELS_MAX: Final = 150
"""Combinations of labels in one family."""

LABEL_CHARS_MAX: Final = 48

_RESULTS: Final[Mapping[str, str]] = {
    "released": "released",
    "aborted by the peer": "aborted_by_peer",
    "aborted": "aborted",
    "lost": "lost",
}
"""Words for the ways in which an association ends, by the log's text up to a colon."""

REJECTED: Final = "rejected"


class Counters:
    """Associations and instances by calling AE title, attempts by upstream, instances that were not
    kept by rule."""

    def __init__(self) -> None:
        self._families: dict[str, Counter[tuple[str, ...]]] = {
            "associations": Counter(),
            "instances": Counter(),
            "attempts": Counter(),
            "rule_decisions": Counter(),
        }
        self._accepted: set[str] = set()

    def count(self, event: Event) -> None:
        """Counts an event, if its kind is counted."""
        match event["kind"]:
            case "association":
                calling_ae = text(event, "calling_ae")
                if len(self._accepted) < LABELS_MAX:
                    self._accepted.add(calling_ae)
                how = text(event, "how").partition(":")[0]
                self._add("associations", calling_ae, _RESULTS.get(how, OTHER))
                for status, number in counts(event, "statuses", int).items():
                    self._add("instances", calling_ae, status, number=int(number))
                if left_out := count(event, "left_out"):
                    self._add("associations", OTHER, OTHER, number=left_out)
            case "rejection":
                calling_ae = text(event, "calling_ae")
                known = calling_ae in self._accepted
                self._add("associations", calling_ae if known else OTHER, REJECTED)
                if left_out := count(event, "left_out"):
                    self._add("associations", OTHER, REJECTED, number=left_out)
            case "decision":
                self._add("rule_decisions", text(event, "rule"), text(event, "action"))
                if left_out := count(event, "left_out"):
                    self._add("rule_decisions", OTHER, OTHER, number=left_out)
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
