"""Lists what is wrong now: the reasons for which the node is not ready, and the warnings.

Guaranteed: a condition has the same key for as long as it lasts, whatever numbers its text shows.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from fastjmix.api.node_state import NodeState
from fastjmix.api.warnings import Warnings

Severity = Literal["error", "warning"]

NOT_READY: Final = "not_ready"

ASKED_FOR: Final = ("stopping", "draining")
"""The reasons that are no alerts: a person has asked for them."""


class Condition(NamedTuple):
    """One thing that is wrong. `name` and `subject` are its key; `text` says what to do."""

    name: str
    subject: str
    severity: Severity
    text: str

    @property
    def key(self) -> str:
        """The same while it lasts, and no other condition's."""
        return f"{self.name} {self.subject}".strip()


def conditions(state: NodeState, warnings: Warnings) -> list[Condition]:
    """Returns what is wrong now. May wait for the disk: it belongs in a thread."""
    reasons = (one for one in state.reasons() if one[0] not in ASKED_FOR)
    found = [Condition(NOT_READY, name, "error", text) for name, text in reasons]
    found += [Condition(one.name, one.subject, "warning", one.text) for one in warnings.each()]
    return found
