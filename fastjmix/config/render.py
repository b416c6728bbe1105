"""The effective configuration as one file: the given tables, with every default in them.

Guaranteed: the text is a configuration file with the same effect. No secret is in it: a variable
stands in its place. A value that was written with variables is shown with them. Keys that mean
nothing here, and those without a value, are comments.
Still wrong: an address or a URL that follows from several tables is only a comment at the end.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fastjmix.config import tables
from fastjmix.config.declare import Table, option
from fastjmix.config.faults import dotted, quoted
from fastjmix.config.reading import Sources
from fastjmix.config.strings import UNLIMITED
from fastjmix.config.table_checks import Entry, Tables
from fastjmix.config.tables_net import ForeignAuthentication
from fastjmix.config.tables_pipeline import Chain
from fastjmix.config.tree import Config, DicomListener, HttpListener

IN_THIS_FILE: Final = "none-all-pipelines-are-in-this-file"
"""Printed as pipelines_path: there is no such directory, so that no other file is read."""

CREDENTIALS: Final = {
    "bearer": ("token", "token_file"),
    "basic": ("username", "username_file", "password", "password_file"),
    "api_key": ("api_key", "api_key_file", "header_name"),
    "s3": (
        *("access_key_id", "access_key_id_file", "secret_access_key", "secret_access_key_file"),
        *("session_token", "session_token_file"),
    ),
}
"""The keys of each method."""

REFERRING: Final = ("authentication", "authentication_ref", "proxy_authentication")
"""Keys that name an [authentications.*]; a value that names none may be the credential itself."""

BESIDE_THE_FILE: Final = (
    *("key_file", "recipient_key_file", "decryption_key_file", "webhook_url_file"),
    *("token_file", "username_file", "password_file", "api_key_file"),
    *("access_key_id_file", "secret_access_key_file", "session_token_file"),
)
"""Paths that are relative to the file that names them: the whole path is printed."""

_REFERENCE: Final = re.compile(r"(?<!\$)\$\{")
_WHOLE_REFERENCE: Final = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_LABEL: Final = "–"


def render(found: Tables, sources: Sources, config: Config) -> str:
    """Returns the configuration that would run, for `fastjmix check`, with a newline at the end."""
    lines = [f"# effective configuration of {_comment(str(config.source))}, in one file"]
    raw = {source.file: source.raw for source in sources.files}
    entries = found.family("authentications")
    named = {*entries, *(getattr(entry.value, "id", None) or "" for entry in entries.values())}
    for family in (*tables.SINGLE, *tables.NAMED, *tables.CHOSEN):
        if family in tables.IGNORED:
            continue
        for entry in _entries(found, family):
            given = raw.get(entry.file, {}).get(family, {})
            own = given.get(entry.name, {}) if entry.name else given
            lines += _Writer(entry, own, named).lines()
    lines += _comments("accepted, and means nothing here", config.ignored)
    lines += _comments("warnings", config.warnings)
    lines += _comments("it comes to", _outcome(config))
    return "\n".join(lines) + "\n"


def _entries(found: Tables, family: str) -> Iterator[Entry]:
    """Yields the family's tables; one with the defaults where a table may be left out."""
    held = found.family(family)
    if held or family not in tables.SINGLE:
        yield from held.values()
    else:
        yield Entry(found.main, family, "", tables.SINGLE[family]())


def _comments(title: str, texts: tuple[str, ...]) -> list[str]:
    return ["", f"# {title}:", *(f"#   {_comment(text)}" for text in texts)] if texts else []


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _outcome(config: Config) -> tuple[str, ...]:
    """Returns facts that follow from more than one table."""
    node = config.runtime
    found = [f"storage at {config.storage_dir}; {node.packers} packers, {node.receivers} receivers"]
    listeners: list[DicomListener | HttpListener] = [*config.dicom, *config.http]
    for one in listeners:
        service = f"DICOM, {one.ae_title}" if isinstance(one, DicomListener) else _where(one)
        to = ", ".join(f"{up.url} ({up.name})" for up in one.upstreams) or "nothing"
        endpoint = dotted("endpoints", one.endpoint)
        found.append(f"{endpoint}: {service} at {one.host}:{one.port}; to {to}")
        if isinstance(one, DicomListener) and one.route is not None:
            rules = f"{len(one.route.rules)} rules of {dotted('middleware', one.route.name)} first"
            also = ", ".join(f"{up.url} ({up.name})" for up in one.routed)
            found.append(f"{endpoint}: {rules}" + (f"; they name {also}" if also else ""))
    return tuple(found)


def _where(listener: HttpListener) -> str:
    return f"HTTP, {listener.path_prefix}/api/jmix"


class _Writer:
    """Writes one table and those below it. `raw` is the table as it stands in its file, `named` the
    names by which [authentications.*] are referred to."""

    def __init__(self, entry: Entry, raw: Any, named: Collection[str]) -> None:
        self._entry = entry
        self._named = named
        self._raw = raw
        self._path = (entry.family, entry.name) if entry.name else (entry.family,)

    def lines(self) -> list[str]:
        """Returns the lines; none where the table has faults."""
        if self._entry.value is None:
            return []
        return ["", f"[{dotted(*self._path)}]", *self._table(self._entry.value, self._path)]

    def _table(self, table: Table, path: tuple[str | int, ...]) -> Iterator[str]:
        """Yields plain values first: in TOML they must stand before the tables below."""
        below: list[tuple[str, Any]] = []
        for name, declared in type(table).model_fields.items():
            value = getattr(table, name)
            if not self._is_used(name, path):
                continue
            if isinstance(table, ForeignAuthentication) and name == "options":
                yield "# options: not shown, and not used"
            elif isinstance(value, Chain):
                yield from self._chain(name, value)
            elif _has_tables(value):
                below.append((name, value))
            else:
                unset = str(option(declared, "unset") or "")
                yield from self._plain(
                    (*path, name), value, unset, bool(option(declared, "secret"))
                )
        for name, value in below:
            yield from self._below((*path, name), value)

    def _is_used(self, name: str, path: tuple[str | int, ...]) -> bool:
        """Returns whether a credential's key is one of its method: no other is shown."""
        if path[0] != "authentications" or path[-1] != "options":
            return True
        method = getattr(self._entry.value, "method", "")
        return name in CREDENTIALS.get(method, ())

    def _below(self, path: tuple[str | int, ...], value: Any) -> Iterator[str]:
        header = dotted(*(step for step in path if isinstance(step, str)))
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from self._below((*path, name), inner)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from ("", f"[[{header}]]", *self._table(inner, (*path, number)))
        else:
            yield from ("", f"[{header}]", *self._table(value, path))

    def _chain(self, name: str, chain: Chain) -> Iterator[str]:
        left, right = _literal(chain.left), _literal(chain.right)
        if chain.right:
            yield f"{name} = {{ left = {left}, right = {right} }}"
        else:
            yield f"{name} = {left}"

    def _plain(
        self, path: tuple[str | int, ...], value: Any, unset: str, secret: bool
    ) -> Iterator[str]:
        name = dotted(str(path[-1]))
        written = self._written(path)
        if path == ("proxy", "pipelines_path"):
            yield f"{name} = {quoted(IN_THIS_FILE)}"
        elif value is None:
            if unset and unset != _LABEL:
                yield f"# {name}: {_comment(unset)}"
        elif secret:
            whole = isinstance(written, str) and _WHOLE_REFERENCE.fullmatch(written)
            yield f"{name} = {quoted(str(written) if whole else _variable(path))}  # not shown"
        elif path[-1] in REFERRING and value.removeprefix("authentications.") not in self._named:
            yield f"# {name}: names no [authentications.*]; not shown, and not used"
        elif path[-1] in BESIDE_THE_FILE:
            yield f"{name} = {self._beside(value, written)}"
        elif isinstance(written, str) and _REFERENCE.search(written):
            yield f"{name} = {quoted(written)}"
        else:
            yield f"{name} = {_literal(value)}"

    def _beside(self, value: str, written: Any) -> str:
        """Returns a path that is relative to its file as a whole one, with its variables."""
        parent = Path(self._entry.file).parent.absolute()
        if not isinstance(written, str) or not _REFERENCE.search(written):
            return _literal(parent / value)
        before = "" if Path(value).is_absolute() else f"{parent}/".replace("${", "$${")
        return quoted(before + written)

    def _written(self, path: tuple[str | int, ...]) -> Any:
        """Returns the value as it stands in the file; None where it is not there."""
        found = self._raw
        for step in path[len(self._path) :]:
            if isinstance(found, Mapping) and isinstance(step, str):
                found = found.get(step)
            elif isinstance(found, list) and isinstance(step, int):
                found = found[step]
            else:
                return None
        return found


def _variable(path: tuple[str | int, ...]) -> str:
    """Returns a variable for a secret that stands in the file: ${A_TOKEN} for the token of
    [authentications.a.options]."""
    name = re.sub(r"[^A-Za-z0-9]", "_", f"{path[1]}_{path[-1]}").upper()
    return f"${{{name if not name[:1].isdigit() else f'_{name}'}}}"


def _has_tables(value: Any) -> bool:
    inner = value[0] if isinstance(value, list) and value else value
    return isinstance(inner, Table) or (isinstance(value, dict) and bool(value))


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isinf(value):
        return quoted(UNLIMITED)
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return str(int(value) if value.is_integer() else float(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(_literal(item) for item in value)}]"
    if isinstance(value, str | Path):
        return quoted(str(value).replace("${", "$${"))
    if value == {}:
        return "{}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a contact's table
        held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{{ {', '.join(f'{name} = {_literal(one)}' for name, one in held.items())} }}"
    raise TypeError(f"no TOML form for {type(value).__name__}")
