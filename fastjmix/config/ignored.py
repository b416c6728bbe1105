"""The keys and tables that were given and mean nothing here, for one line of the log."""

from __future__ import annotations

from collections.abc import Iterator

from fastjmix.config import tables
from fastjmix.config.declare import Table, is_named, table_of
from fastjmix.config.faults import dotted
from fastjmix.config.table_checks import Tables


def ignored(found: Tables) -> list[str]:
    """Returns the path of every key that was given and means nothing here; for a table that means
    nothing as a whole, its own path."""
    paths: dict[str, None] = {}
    for entry in found.all():
        if entry.family in ("services", "middleware_types"):
            paths[entry.family] = None
        elif entry.family in tables.IGNORED:
            paths[entry.path] = None
        elif entry.value is not None:
            paths.update(dict.fromkeys(_ignored(entry.value, entry.path)))
    return list(paths)


def _ignored(table: Table, path: str) -> Iterator[str]:
    for name, declared in type(table).model_fields.items():
        if name not in table.model_fields_set:
            continue
        value = getattr(table, name)
        below = f"{path}.{dotted(name)}"
        if isinstance(value, Table):
            yield from _ignored(value, below)
        elif table_of(declared) is not None and is_named(declared) and value:
            for key, inner in value.items():
                yield from _ignored(inner, f"{below}.{dotted(key)}")
    yield from (f"{path}.{name}" for name in table.ignored)
