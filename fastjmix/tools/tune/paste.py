"""Advice → the lines of TOML to paste, each under its file and its table. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastjmix.tools.tune.verdict import Advice


@dataclass(frozen=True, slots=True)
class Places:
    """The places of the site's keys: names of its tables, and the files that hold them, by name."""

    builder: str
    builder_file: str
    endpoint: str
    endpoint_file: str
    main_file: str
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def held(self, factor: str) -> Mapping[str, Any] | None:
        """Returns the table of a factor's key, as the file has it; None: it has none."""
        file, _ = self.table(factor)
        path = {
            "packers": ("fastjmix",),
            "max_pdu": ("endpoints", self.endpoint, "options"),
        }.get(factor, ("middleware", self.builder, "options"))
        found: Any = self.files.get(file)
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found if isinstance(found, Mapping) else None

    def table(self, factor: str) -> tuple[str, str]:
        """Returns file and table of a factor's key."""
        if factor == "packers":
            return self.main_file, "fastjmix"
        if factor == "max_pdu":
            return self.endpoint_file, f"endpoints.{_quoted(self.endpoint)}.options"
        return self.builder_file, f"middleware.{_quoted(self.builder)}.options"


def places(files: Sequence[tuple[str, Mapping[str, Any]]], pipeline: str, endpoint: str) -> Places:
    """Returns the tables of one listener. `files` are names and raw tables, the main file first."""
    main = files[0][0] if files else "config.toml"
    builder = "jmix_builder"
    for _, tables in files:
        middleware = _at(tables, "pipelines", pipeline).get("middleware", [])
        if isinstance(middleware, Mapping):
            middleware = [*middleware.get("left", []), *middleware.get("right", [])]
        for name in middleware:
            kinds = [_at(held, "middleware", name).get("type") for _, held in files]
            if "jmix_builder" in kinds:
                builder = name

    def holder(family: str, name: str) -> str:
        return next((file for file, tables in files if _at(tables, family, name)), main)

    return Places(
        builder,
        holder("middleware", builder),
        endpoint,
        holder("endpoints", endpoint),
        main,
        dict(files),
    )


def toml(advice: Sequence[Advice], where: Places, why_nothing: str = "") -> str:
    """Returns the lines to paste, each under its table and file; above them why there is none.

    A comment says which table the file has already, and which value the key: either may be there
    only once.
    """
    lines: list[str] = []
    tables: dict[tuple[str, str], list[str]] = {}
    for one in advice:
        held = where.held(one.factor)
        into = "" if held is None else ", in its table that is there"
        line = f"{one.factor} = {_literal(one.value)}"
        if one.traded:
            written = f"# {line}  # not recommended: {one.why}, but {one.traded}"
        else:
            old = None if held is None else held.get(one.factor)
            written = f"{line}  # {'' if old is None else f'instead of {_literal(old)}: '}{one.why}"
        file, table = where.table(one.factor)
        tables.setdefault((f"{file}{into}", table), []).append(written)
    for (place, table), keys in tables.items():
        lines += [f"# in {place}", f"[{table}]", *keys, ""]
    if why_nothing:
        lines = [f"# {why_nothing}", "", *lines]
    return "\n".join(lines).rstrip("\n") + "\n"


def _at(tables: Mapping[str, Any], family: str, name: str) -> Mapping[str, Any]:
    held = tables.get(family)
    found = held.get(name) if isinstance(held, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _quoted(name: str) -> str:
    return name if name and name.replace("_", "").replace("-", "").isalnum() else f'"{name}"'


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else f'"{value}"'
