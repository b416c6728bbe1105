"""Finds out which conditions began and which ended, since the last look or the last run.

Guaranteed: a condition is reported once when it begins. It is over when it was missing at
LOOKS_TO_END looks in a row, so that one which comes and goes is one alert. Alerts that have not
ended are kept in alerts.json in the storage directory: a restart reports none of them twice, and
reports the end of those that it has put right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fastjmix.api.alerts.conditions import Condition, Severity
from fastjmix.api.alerts.forms import Alert
from fastjmix.spool.remembered import Remembered

FILE: Final = "alerts.json"

LOOKS_TO_END: Final = 3

TEXT_MAX: Final = 600
"""Characters of a text that are kept: 64 KB hold some 80 conditions."""


@dataclass(slots=True)
class _Ongoing:
    condition: Condition
    began: float
    missing: int = 0


class Watch:
    """The conditions that go on, at the node of that name."""

    def __init__(self, node: str, file: Remembered) -> None:
        self.node = node
        self._file = file
        self._ongoing = {key: found for key, one in file.load().items() if (found := _load(one))}

    def look(self, conditions: Iterable[Condition], now: float) -> list[Alert]:
        """Returns what has begun and what is over. `now` is Unix seconds."""
        current = {one.key: one for one in conditions}
        alerts = [self._begin(one, now) for key, one in current.items() if key not in self._ongoing]
        for key, one in list(self._ongoing.items()):
            one.missing = 0 if key in current else one.missing + 1
            one.condition = current.get(key, one.condition)
            if one.missing >= LOOKS_TO_END:
                del self._ongoing[key]
                alerts.append(Alert(self.node, one.condition, one.began, now))
        if alerts:
            self._file.save({key: _dump(one) for key, one in self._ongoing.items()})
        return alerts

    def _begin(self, condition: Condition, now: float) -> Alert:
        self._ongoing[condition.key] = _Ongoing(condition, now)
        return Alert(self.node, condition, now)


def _dump(one: _Ongoing) -> Mapping[str, Any]:
    name, subject, severity, text = one.condition
    return {
        "name": name,
        "subject": subject,
        "severity": severity,
        "text": text[:TEXT_MAX],
        "began": one.began,
    }


def _load(one: Mapping[str, Any]) -> _Ongoing | None:
    try:
        severity: Severity = "error" if one["severity"] == "error" else "warning"
        name, subject, text = str(one["name"]), str(one["subject"]), str(one["text"])
        return _Ongoing(Condition(name, subject, severity, text), float(one["began"]))
    except (KeyError, TypeError, ValueError):
        return None
