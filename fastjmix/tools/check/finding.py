"""One thing that was tried: how it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from fastjmix.errors import FastjmixError, printable

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was tried at `where`. `found` is the result in words, `what_to_do` the next step; ""
    where there is none. A peer's text in it is escaped by `row` and `line`."""

    state: State
    what: str
    where: str
    found: str
    what_to_do: str = ""

    def row(self) -> dict[str, str]:
        """Returns it for JSON."""
        return {name: printable(text) for name, text in asdict(self).items()}

    def line(self) -> str:
        """Returns it as one line: what, where, the result and the next step."""
        place = f"{self.what} {self.where}".rstrip()
        end = "" if self.found.endswith((".", "?", "!")) or not self.what_to_do else "."
        return printable(f"{place}: {self.found}{end} {self.what_to_do}".rstrip())


def of_error(what: str, where: str, problem: FastjmixError) -> Finding:
    """Returns the fault that an error of fastjmix describes."""
    return Finding("fault", what, where, problem.message.removeprefix(f"{where}: "), problem.hint)


def exit_code(findings: Iterable[Finding]) -> int:
    """Returns 1 where one of them is a fault, else 0."""
    return int(any(one.state == "fault" for one in findings))
