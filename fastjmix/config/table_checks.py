"""Raw tables → models; pydantic's errors → faults in the operator's words.

Guaranteed: every table of every file is checked, whatever else is wrong. A table with faults is
still known by name, so that a reference to it is no second fault. A value that may be secret is
described, never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fastjmix.config import tables
from fastjmix.config.declare import Table, choices, is_named, item_of, option, table_of
from fastjmix.config.faults import Findings, described, dotted, nearest, shown
from fastjmix.config.in_words import allowed, listed
from fastjmix.config.reading import Filled, FilledFloat, FilledInt, Source, Sources

_QUERY: Final = re.compile(r"[?#](?=.)")  # …?token=…
_NO_SUCH_KEY: Final = "a key that does not exist here"


@dataclass(frozen=True, slots=True)
class Entry:
    """A table and its place. `value` is None when it has faults."""

    file: str
    family: str
    name: str
    value: Table | None

    @property
    def path(self) -> str:
        """Returns its TOML header."""
        return dotted(self.family, self.name) if self.name else self.family


@dataclass(slots=True)
class Tables:
    """Every table of every file: by family, then by name ("" for tables that stand once)."""

    main: str
    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)

    def family(self, name: str) -> Mapping[str, Entry]:
        """Returns the entries of a family; none if it does not occur."""
        return self.entries.get(name, {})

    def all(self) -> Iterator[Entry]:
        """Yields every entry."""
        for family in self.entries.values():
            yield from family.values()


def check(sources: Sources, findings: Findings) -> Tables:
    """Returns every table of these files. `sources` has at least the main file."""
    found = Tables(sources.files[0].file)
    for source in sources.files:
        for name, raw in source.tables.items():
            if name in tables.SINGLE:
                _check_single(name, raw, source, found, findings)
            elif name in tables.NAMED or name in tables.CHOSEN:
                _check_family(name, raw, source, found, findings)
            else:
                _unknown_table(name, source, findings)
    return found


def _unknown_table(name: str, source: Source, findings: Findings) -> None:
    known = [*tables.SINGLE, *tables.NAMED, *tables.CHOSEN]
    if name in tables.REFUSED:
        refused = f"nothing: fastjmix does not offer {tables.REFUSED[name]}, and will not leave"
        findings.fault(source.file, "", dotted(name), "a table", f"{refused} them out unnoticed")
        return
    close = nearest(name, known)
    findings.fault(source.file, "", dotted(name), _NO_SUCH_KEY, listed(known), close)


def _check_single(name: str, raw: Any, source: Source, found: Tables, findings: Findings) -> None:
    if source.file != found.main:
        findings.fault(
            source.file, name, "", "in a pipeline file", f"this table in {found.main} only"
        )
        return
    value = _validated(tables.SINGLE[name], raw, (name,), source.file, findings)
    found.entries[name] = {"": Entry(source.file, name, "", value)}


def _check_family(family: str, raw: Any, source: Source, found: Tables, findings: Findings) -> None:
    if not isinstance(raw, dict):
        findings.fault(source.file, "", family, described(raw), f"tables: [{family}.<name>]")
        return
    known = found.entries.setdefault(family, {})
    for name, table in raw.items():
        if name in known:
            findings.fault(
                source.file,
                dotted(family, name),
                "",
                f"a second definition: {known[name].file} has one",
                "each name once, over all files",
            )
            continue
        model = _model(family, name, table, source.file, findings)
        path = (family, name)
        value = _validated(model, table, path, source.file, findings) if model else None
        known[name] = Entry(source.file, family, name, value)


def _model(family: str, name: str, raw: Any, file: str, findings: Findings) -> type[Table] | None:
    """Returns this table's model; None, and a fault, when its choosing key has no known value."""
    if family in tables.NAMED:
        return tables.NAMED[family]
    chooser, models = tables.CHOSEN[family]
    choice = raw.get(chooser) if isinstance(raw, dict) and chooser else None
    if isinstance(choice, str) and choice and choice in models:
        return models[choice]
    if not chooser or not isinstance(raw, dict) or (chooser not in raw and "" in models):
        return next(iter(models.values()))
    close = nearest(choice, models) if isinstance(choice, str) else ""
    hides = family == "authentications" and not close  # it may be the credential itself
    found = "nothing" if chooser not in raw else described(choice) if hides else shown(choice)
    findings.fault(file, dotted(family, name), chooser, found, _choices(family, models), close)
    return None


def _choices(family: str, models: Mapping[str, type[Table]]) -> str:
    words = listed(f'"{choice}"' for choice in models if choice)
    if family == "middleware":
        return f"{words}; to leave out another one, which may guard something, would be unsafe"
    return words


def _validated(
    model: type[Table], raw: Any, path: tuple[str, ...], file: str, findings: Findings
) -> Table | None:
    try:
        return model.model_validate(raw)
    except ValidationError as problem:
        for error in problem.errors(include_url=False, include_context=False):
            _report(model, error["type"], error["loc"], error["input"], path, file, findings)
        return None


def _report(
    model: type[Table],
    error: str,
    loc: tuple[int | str, ...],
    value: Any,
    path: tuple[str, ...],
    file: str,
    findings: Findings,
) -> None:
    if not loc:  # the whole table is something else
        findings.fault(file, dotted(*path[:-1]), dotted(path[-1]), described(value), "a table")
        return
    names = len(loc) - 1 if isinstance(loc[-1], str) else len(loc) - 2
    table, key = dotted(*path, *loc[:names]), dotted(*loc[names:])
    owner, declared = _declaration(model, loc)
    if error == "extra_forbidden":
        words = _keys(owner)
        close = words.get(nearest(str(loc[-1]), words), "")
        right = listed(owner.model_fields) or "nothing"
        findings.fault(file, table, key, _NO_SUCH_KEY, right, close)
    elif declared is None:  # an entry of a table of tables
        findings.fault(file, table, key, described(value), "a table")
    else:
        found = "nothing" if error == "missing" else _shown(declared, value, path[0])
        one_of_many = isinstance(loc[-1], int) and not option(declared, "allowed")
        right = "a string" if one_of_many else allowed(declared)
        close = nearest(value, choices(declared)) if isinstance(value, str) else ""
        findings.fault(file, table, key, found, right, close and shown(close))


def _shown(declared: FieldInfo, value: Any, family: str) -> str:
    may_be_secret = option(declared, "secret") or family == "authentications"
    with_user = isinstance(value, str) and "@" in value  # http://user:password@host
    if may_be_secret or with_user or isinstance(value, Filled | FilledInt | FilledFloat):
        return described(value)
    mark = _QUERY.search(value) if isinstance(value, str) else None
    return shown(value) if mark is None else f"{shown(value[: mark.end()])} and more (not shown)"


def _declaration(
    model: type[Table], loc: tuple[int | str, ...]
) -> tuple[type[Table], FieldInfo | None]:
    """Returns the innermost model on the way to `loc`, and the field declared there; None for the
    field where the last step is an unknown key, or a name in a table of tables."""
    owner, declared = model, None
    steps = [step for step in loc if isinstance(step, str)]
    at = 0
    while at < len(steps):
        declared = owner.model_fields.get(steps[at])
        inner = (table_of(declared) or item_of(declared)) if declared is not None else None
        at += 1
        if declared is None or inner is None or at == len(steps):
            break
        owner = inner
        if is_named(declared):
            declared = None  # the next step is a name
            at += 1
    return owner, declared


def _keys(model: type[Table]) -> dict[str, str]:
    """Returns every key that may have been meant, also one table below, and how to write it."""
    words: dict[str, str] = {}
    for name, declared in model.model_fields.items():
        inner = table_of(declared)
        if inner is not None and not is_named(declared):
            words |= {below: dotted(name, below) for below in (*inner.model_fields, *inner.IGNORED)}
    return words | {name: name for name in (*model.model_fields, *model.IGNORED)}
