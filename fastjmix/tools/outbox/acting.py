"""Asks the running node for an action on envelopes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastjmix.control.client import ControlClient
from fastjmix.ipc.actions import DONE, IDS_MAX, Kind

PER_REQUEST: Final = 2 * IDS_MAX
"""Envelopes of one request: so the node answers in time (control/client.py), also from a slow
disk."""


@dataclass(frozen=True, slots=True)
class Acted:
    """The results of an action: for each envelope "done", or the reason why not."""

    kind: Kind
    results: dict[str, str]

    @property
    def done(self) -> int:
        """The number of envelopes for which it was done."""
        return sum(result == DONE for result in self.results.values())

    @property
    def exit_code(self) -> int:
        """0 when all was done, 1 when something was not, or there was nothing."""
        return 0 if self.results and self.done == len(self.results) else 1

    def as_json(self) -> dict[str, Any]:
        """Returns the results for a program."""
        failed = len(self.results) - self.done
        told = {"action": self.kind.value, "results": self.results, "done": self.done}
        return {**told, "failed": failed, "exit_code": self.exit_code}


def act(
    storage: Path, kind: Kind, ids: Sequence[str], why: str, upstream: str | None = None
) -> Acted:
    """Does it, for one of several upstreams where `upstream` names it. Raises NodeAway,
    NodeRefused: what was asked before may be done."""
    client = ControlClient(storage)
    results: dict[str, str] = {}
    for at in range(0, len(ids), PER_REQUEST):
        body: dict[str, Any] = {"ids": list(ids[at : at + PER_REQUEST]), "why": why}
        if upstream is not None:
            body["upstream"] = upstream
        results.update(client.post(f"/api/node/envelopes/{kind.value}", body)["results"])
    return Acted(kind, results)
