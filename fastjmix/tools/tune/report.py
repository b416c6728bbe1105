"""The options of `tune`, and what it reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastjmix.tools.tune import verdict
from fastjmix.tools.tune.effects import Figures, Findings
from fastjmix.tools.tune.material import Material
from fastjmix.tools.tune.verdict import Advice

COMBINED: Final = "recommended together"
"""The name of the trial with all that is recommended."""


@dataclass(frozen=True, slots=True)
class Options:
    """The choices of a person. `directory` None: synthetic studies of the kind `like`."""

    directory: Path | None = None
    like: str = "ct"
    seconds: float = 60.0
    associations: int = 1
    sample_bytes: int = 128_000_000
    sample_instances: int = 1000


@dataclass(frozen=True, slots=True)
class Report:
    """The result. `figures` begin with the configured setting; `floor` is of the sender and the
    loopback alone."""

    material: Material
    associations: int
    storage: Path
    figures: tuple[Figures, ...]
    floor: Figures
    findings: Findings
    advice: tuple[Advice, ...]
    toml: str
    failed: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]  # trials for which there was no time
    notes: tuple[str, ...]
    seconds: float

    @property
    def sentence(self) -> str:
        """Returns which setting is the bottleneck, in words."""
        return verdict.sentence(self.findings, complete=not self.left_out)

    @property
    def exit_code(self) -> int:
        """Returns 1 when a trial failed, else 0."""
        return 1 if self.failed else 0
