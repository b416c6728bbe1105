"""Asks the running node to go by its configuration as it is now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastjmix.control.client import ControlClient, NodeRefused

REFUSED: Final = 422
"""The status with which a node answers that it does not do what it was asked for."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The answer of the node: with `ok` False nothing was changed, and `faults` say why."""

    ok: bool
    generation: int
    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    needs_restart: tuple[str, ...]

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Reloaded:
        """Returns it of the node's JSON. Raises KeyError."""
        texts = (tuple(answer[name]) for name in ("faults", "warnings", "needs_restart"))
        return cls(answer["ok"], answer["generation"], *texts)

    @property
    def exit_code(self) -> int:
        """0 when it is in force, 2 when it was refused."""
        return 0 if self.ok else 2

    def as_json(self) -> dict[str, Any]:
        """Returns it for a program."""
        return {
            "ok": self.ok,
            "generation": self.generation,
            "faults": self.faults,
            "warnings": self.warnings,
            "needs_restart": self.needs_restart,
            "exit_code": self.exit_code,
        }


def reload(storage: Path) -> Reloaded:
    """Has the node of this storage directory reload. Raises NodeAway, NodeRefused."""
    try:
        return Reloaded.of(ControlClient(storage).post("/api/node/reload", {}))
    except NodeRefused as refused:
        if refused.status == REFUSED and "faults" in refused.answer:
            return Reloaded.of(refused.answer)
        raise
