"""Writes the body of a post, in the form that its receiver reads.

json           our own: one object an alert
slack          {"text": …}, which Slack, Mattermost, Rocket.Chat and Google Chat read
alertmanager   the list of POST /api/v2/alerts of Prometheus' Alertmanager
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from fastjmix.api.alerts.conditions import Condition
from fastjmix.config.tree import AlertFormat


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition that began, or (`ended` is a time) that is over. Times are Unix seconds."""

    node: str
    condition: Condition
    began: float
    ended: float | None = None

    def body(self, form: AlertFormat) -> bytes:
        """Returns the body of the post."""
        return orjson.dumps(_FORMS[form](self))


def _time(secs: float) -> str:
    return datetime.fromtimestamp(secs, UTC).isoformat(timespec="seconds")


def _json(alert: Alert) -> Mapping[str, Any]:
    condition = alert.condition
    return {
        "node": alert.node,
        "status": "firing" if alert.ended is None else "resolved",
        "name": condition.name,
        "subject": condition.subject,
        "severity": condition.severity,
        "text": condition.text,
        "began": _time(alert.began),
        "ended": None if alert.ended is None else _time(alert.ended),
    }


def _slack(alert: Alert) -> Mapping[str, Any]:
    began, text = alert.ended is None, alert.condition.text
    mark = alert.condition.severity.upper() if began else "OVER"
    for sign, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escaped)
    return {"text": f"[{mark}] fastjmix {alert.node}: {text}"}


def _alertmanager(alert: Alert) -> list[Mapping[str, Any]]:
    condition = alert.condition
    labels = {
        "alertname": f"fastjmix_{condition.name}",
        "instance": alert.node,
        "severity": "critical" if condition.severity == "error" else "warning",
    }
    if condition.subject:
        labels["subject"] = condition.subject
    times = {"startsAt": _time(alert.began)}
    if alert.ended is not None:
        times["endsAt"] = _time(alert.ended)
    return [{"labels": labels, "annotations": {"summary": condition.text}, **times}]


_FORMS: Final[Mapping[AlertFormat, Callable[[Alert], Any]]] = {
    "json": _json,
    "slack": _slack,
    "alertmanager": _alertmanager,
}
