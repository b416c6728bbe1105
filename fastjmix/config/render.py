"""The effective tree as text: TOML in form, every value resolved, secrets redacted.

Guaranteed: pure; what it returns can be read by any TOML parser; keys are the tree's own names, so
the text shows what runs, and is not a configuration file to be loaded again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fastjmix.config.faults import dotted, quoted
from fastjmix.config.tree import Config, Secret

_UNSET: Final = {
    "calling": "any",
    "retention_secs": "no limit",
    "retention_bytes": "no limit",
    "soft_reserve_bytes": "by the size of the file system",
    "hard_reserve_bytes": "by the size of the file system",
    "create_storage": "beside the configuration file, or at the top of a mounted disk",
}
"""What None means, where it does not mean that there is none."""

_SEPARATELY: Final = ("source", "ignored", "warnings")


def render(config: Config) -> str:
    """The configuration that would run, for `fastjmix check`. Ends with a newline."""
    lines = [f"# effective configuration of {_comment(str(config.source))}"]
    held = {name: value for name, value in _fields(config) if name not in _SEPARATELY}
    lines += _table(held, ())
    lines += _comments("accepted, and means nothing here", config.ignored)
    lines += _comments("warnings", config.warnings)
    return "\n".join(lines) + "\n"


def _comments(title: str, texts: tuple[str, ...]) -> list[str]:
    return ["", f"# {title}:", *(f"#   {_comment(text)}" for text in texts)] if texts else []


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        yield field.name, getattr(value, field.name)


def _table(held: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Plain values first: in TOML they must stand before the tables below."""
    tables: list[tuple[str, Any]] = []
    for name, value in held.items():
        if _is_table(value) or _has_tables(value):
            tables.append((name, value))
        elif value is None:
            yield f"# {dotted(name)}: {_UNSET.get(name, 'none')}"
        elif not isinstance(value, Secret) or value:
            yield f"{dotted(name)} = {_value(value)}"
    for name, value in tables:
        below = (*path, name)
        if isinstance(value, tuple):
            for item in value:
                yield from ("", f"[[{dotted(*below)}]]", *_table(dict(_fields(item)), below))
        else:
            inner = value if isinstance(value, Mapping) else dict(_fields(value))
            yield from ("", f"[{dotted(*below)}]", *_table(inner, below))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _has_tables(value: Any) -> bool:
    return isinstance(value, tuple) and any(_is_table(item) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, str | Path | Secret):
        return quoted(str(value))
    raise TypeError(f"no TOML form for {type(value).__name__}")
