"""The envelope that is verified, and its report: the checks of a verification share one Subject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from fastjmix.jmix.faults import Fault
from fastjmix.jmix.limits import Bound
from fastjmix.jmix.read import rules
from fastjmix.jmix.read.container import Container
from fastjmix.jmix.read.report import Report

ABSENT: Final = object()
"""Stands for a document that is missing or cannot be parsed: JSON has a null of its own."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An envelope with its report. `root` is "" or the top folder with its slash.

    `count_bytes` gets the size of each piece of a member that was read.
    """

    container: Container
    root: str
    report: Report
    count_bytes: Callable[[int], object]

    def add_fault(self, name: str, what: str, hint: str = "", *, at: int | None = None) -> None:
        """Adds a fault of the member or document `name` to the report."""
        self.report.add_fault(Fault(name, what, hint, at=at))

    def read_document(self, name: str, bound: Bound) -> bytes | None:
        """Returns a document's bytes; None, with a fault, when it cannot be read."""
        try:
            return self.container.read(name, bound)
        except EnvelopeError as fault:
            self.report.add_fault(fault)
            return None

    def parse(self, data: bytes | None, name: str, at: int | None = None) -> object:
        """Returns a document's value; ABSENT without data, or, with a fault, when it is no JSON."""
        try:
            return ABSENT if data is None else strict_json.parse(data, name, at)
        except EnvelopeError as fault:
            self.report.add_fault(fault)
            return ABSENT

    def document(self, name: str, bound: Bound) -> object:
        """Returns a document's value; ABSENT, with a fault, when it cannot be read or parsed."""
        data = self.read_document(name, bound)
        return ABSENT if data is None else self.parse(data, name, self.container.offset(name))

    def check_rule(self, rule: rules.Rule, value: object, name: str) -> None:
        """Adds a fault for each departure of a document from its rule."""
        for key, what in rules.broken(rule, value, name):
            self.add_fault(name, what if key == name else f"{key} {what}")
