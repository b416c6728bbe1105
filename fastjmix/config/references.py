"""Looks up names that refer to tables, and notes a fault where one leads nowhere.

Guaranteed: a reference to a table that exists and has faults of its own is no second fault.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fastjmix.config.faults import Findings, dotted, nearest, shown
from fastjmix.config.in_words import listed
from fastjmix.config.table_checks import Entry, Tables

# Tables of these have no effect unless something refers to them.
_REFERRED_TO: Final = (
    "network",
    "peers",
    "targets",
    "authentications",
    "endpoints",
    "middleware",
    "backends",
)


@dataclass(slots=True)
class References:
    """Every table, the faults and warnings so far, and which tables are referred to."""

    tables: Tables
    findings: Findings
    used: set[tuple[str, str]] = field(default_factory=set)

    def find(self, by: Entry, key: str, family: str, name: str) -> Entry | None:
        """Returns the table that `key` of the table `by` names as "x" or "family.x".

        None: it does not exist (a fault), or has faults. An authentication may also be named by its
        `id`.
        """
        known = self.tables.family(family)
        plain = name if name in known else name.removeprefix(f"{family}.")
        entry = known.get(plain) or self._by_id(family, plain)
        if entry is None:
            self.fault(
                by,
                key,
                f"{shown(name)}, and there is no {dotted(family, plain)}",
                listed(shown(one) for one in known)
                or f"the name of a [{family}.*], of which there is none",
                nearest(plain, known),
            )
            return None
        self.used.add((entry.family, entry.name))
        return entry if entry.value is not None else None

    def _by_id(self, family: str, name: str) -> Entry | None:
        if family != "authentications":
            return None
        entries = self.tables.family(family).values()
        return next((one for one in entries if getattr(one.value, "id", None) == name), None)

    def fault(self, of: Entry, key: str, found: str, allowed: str, near: str = "") -> None:
        """Notes a fault of the table `of`; `key` may be dotted, relative to it."""
        table, _, last = f"{of.path}.{key}".rpartition(".")
        self.findings.fault(of.file, table, last, found, allowed, near)

    def file(self, of: Entry, key: str, path: str | None) -> Path | None:
        """Returns the absolute path of a file, relative to the working directory. None: no path, or
        (with a fault) a file that cannot be read."""
        if path is None:
            return None
        try:
            with open(path, "rb"):
                return Path(path).absolute()
        except OSError as problem:
            self.fault(of, key, f"{shown(path)}: {problem.strerror}", "a PEM file we can read")
            return None

    def warn_of_unused(self) -> None:
        """Notes one warning for all tables that nothing refers to."""
        idle = [
            entry.path
            for family in _REFERRED_TO
            for entry in self.tables.family(family).values()
            if (family, entry.name) not in self.used
        ]
        if idle:
            self.findings.warn(f"nothing refers to {listed(idle)}: without effect")
