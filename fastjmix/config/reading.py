"""Reads the main file and the pipeline files as raw tables, with `${VAR}` filled in.

Guaranteed: any number of files are one configuration, and each table is known by its file. A file
that cannot be read, or is not TOML, is a fault with its place; one that would be costly to parse is
a fault before it is parsed. The environment is put into string values only, never into keys, and no
fault shows a value out of it. Where a number or a truth value belongs, such a string is read as one
(declare.py).
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastjmix.config import bounds
from fastjmix.config.faults import Findings, dotted, nearest, quoted, shown
from fastjmix.config.secrets import HIDDEN, is_secret, walk

_PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_TWICE: Final = re.compile(r"Cannot (?:declare|redefine|mutate|overwrite) .*", re.DOTALL)
_KEYS: Final = re.compile(r"'[^']{2,}'")  # tomllib names keys: they may be values, misplaced
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRETS: Final = (
    *("token", "username", "password", "api_key"),
    *("access_key_id", "secret_access_key", "session_token"),
)

# Tables that mean nothing here: a variable that only they need is no fault.
_LEFT_ALONE: Final = ("provider", "runbeam", "management")

DEFAULT_PIPELINES_PATH: Final = "pipelines"


class Filled(str):
    """A string with a variable's value in it: no fault may show it."""

    __slots__ = ()


class FilledInt(int):
    """An integer out of such a string."""


class FilledFloat(float):
    """Another number out of such a string."""


_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def as_number(text: Filled) -> FilledInt | FilledFloat | bool | Filled:
    """Returns the number or the truth value that a filled string stands for; the string itself
    where it is neither."""
    if text in ("true", "false"):
        return text == "true"
    if _WHOLE.fullmatch(text):
        return FilledInt(text)
    return FilledFloat(text) if _NUMBER.fullmatch(text) else text


@dataclass(frozen=True, slots=True)
class Source:
    """One file's tables. `file` is its path as the operator would write it, `raw` has the tables
    before variables were replaced."""

    file: str
    tables: Mapping[str, Any]
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """The main file first, then the pipeline files by name. `complete` False: one was unreadable,
    and may hold a table that others refer to."""

    files: tuple[Source, ...]
    complete: bool


def read(path: Path, findings: Findings, environment: Mapping[str, str]) -> Sources:
    """Reads the main file `path` and every *.toml of its pipelines_path."""
    budget = _Budget()
    main = _parse(path, findings, budget)
    if main is None:
        return Sources((), complete=False)
    pipelines = [_parse(one, findings, budget) for one in _pipeline_files(path, main, findings)]
    raw = [main, *(one for one in pipelines if one is not None)]
    if not _are_values_in_bounds(raw, findings):
        return Sources((), complete=False)
    _hide(raw, findings, environment)
    for source in raw:
        _warn_of_readers(source, findings)
    filled = tuple(_fill(source, findings, environment) for source in raw)
    return Sources(filled, complete=None not in pipelines)


@dataclass(slots=True)
class _Budget:
    """Bytes that may still be read."""

    left: int = bounds.CONFIG_BYTES_MAX

    def read(self, path: Path) -> bytes | None:
        """Returns a file's bytes; None if there are more than the budget. Raises OSError."""
        with path.open("rb") as file:
            data = file.read(self.left + 1)
        self.left = max(self.left - len(data), -1)
        return data if self.left >= 0 else None


def _parse(path: Path, findings: Findings, budget: _Budget) -> Source | None:
    try:
        data = budget.read(path)
        if data is None:
            most = bounds.CONFIG_BYTES_MAX
            allowed = f"{most} bytes or fewer, with all files together"
            findings.fault(str(path), "", "", "too many bytes", allowed)
            return None
        text = data.decode()
    except OSError as problem:
        findings.fault(str(path), "", "", problem.strerror or str(problem), "a readable TOML file")
        return None
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        found = f"a byte that is not UTF-8: 0x{problem.object[problem.start]:02x}"
        findings.fault(str(path), "", f"line {line}", found, "TOML 1.0, in UTF-8")
        return None
    excess = bounds.excess(text)
    if excess is not None:
        findings.fault(str(path), "", f"line {excess.line}", excess.found, excess.allowed)
        return None
    try:
        tables = tomllib.loads(text)
        return Source(str(path), tables, tables)
    except (ValueError, RecursionError, MemoryError) as problem:
        findings.fault(str(path), "", *_not_toml(str(problem)))
        return None


def _not_toml(problem: str) -> tuple[str, str, str]:
    """Returns the place, what is found there and what is allowed, for a message of tomllib."""
    match = _PLACE.fullmatch(problem)
    if match is None:
        found = "a value that cannot be read: a number that is too long, or too many levels"
        return "", found, "TOML 1.0"
    said, line, column = match.groups()
    place = f"line {line}, column {column}" if line else "end of document"
    if _TWICE.fullmatch(said):
        found = "a second definition of a table or a key that stands above"
        return place, found, "each once, as TOML 1.0 has it"
    return place, _KEYS.sub("", said), "TOML 1.0"


def _pipeline_files(path: Path, main: Source, findings: Findings) -> list[Path]:
    proxy = main.tables.get("proxy")
    named = proxy.get("pipelines_path") if isinstance(proxy, dict) else None
    if named is not None and not (isinstance(named, str) and named):
        return []  # its own fault is found when the table is checked
    directory = path.parent / (named or DEFAULT_PIPELINES_PATH)
    try:
        found = sorted(one for one in directory.iterdir() if _is_pipeline_file(one, path))
    except OSError as problem:
        if not (isinstance(problem, FileNotFoundError) and main.tables.get("pipelines")):
            findings.fault(
                main.file,
                "proxy",
                "pipelines_path",
                f"{shown(named or DEFAULT_PIPELINES_PATH)}: {problem.strerror}: {directory}",
                "a directory of *.toml files, relative to the main file; or pipelines in the main"
                " file itself",
            )
        return []
    if len(found) > bounds.FILES_MAX:
        allowed = f"{bounds.FILES_MAX} or fewer"
        findings.fault(main.file, "proxy", "pipelines_path", f"{len(found)} *.toml files", allowed)
        return []
    return found


def _is_pipeline_file(candidate: Path, main: Path) -> bool:
    """Returns whether this is to be read. A link that leads nowhere is: reading it is a fault. A
    reload without it would end the listeners that it named a moment before."""
    if candidate.suffix != ".toml" or candidate.name.startswith("."):
        return False
    try:
        mode = candidate.stat().st_mode
    except OSError:
        return True
    return stat.S_ISREG(mode) and not candidate.samefile(main)


# -- bounds, and values that must not be shown -----------------------------------------------------


def _are_values_in_bounds(sources: list[Source], findings: Findings) -> bool:
    """Returns False, and notes a fault, for too many values, or one that is out of bounds."""
    count, within = 0, True
    for source in sources:
        for path, value in walk(source.tables):
            count += 1
            if count > bounds.VALUES_MAX:
                allowed = f"{bounds.VALUES_MAX} keys and values or fewer, in all files together"
                findings.fault(source.file, "", "", "too many keys and values", allowed)
                return False
            wrong = _out_of_bounds(value)
            if wrong is not None:
                within = False
                findings.fault(source.file, dotted(*path[:-1]), dotted(path[-1]), *wrong)
    return within


def _out_of_bounds(value: object) -> tuple[str, str] | None:
    if isinstance(value, int) and value.bit_length() > bounds.INTEGER_BITS_MAX:
        return "an integer of more than 64 bits", "an integer of TOML 1.0: 64 bits"
    if isinstance(value, str) and "\0" in value:
        return "a string with a NUL character", "a string without"
    return None


def _hide(sources: list[Source], findings: Findings, environment: Mapping[str, str]) -> None:
    """Notes which values no fault may show, before there are faults."""
    tables = [s.tables.get("authentications") for s in sources]
    named = {name for one in tables if isinstance(one, dict) for name in one}
    named |= {
        entry["id"]
        for one in tables
        if isinstance(one, dict)
        for entry in one.values()
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    for source in sources:
        for path, value in walk(source.tables):
            if path[0] in _LEFT_ALONE or isinstance(value, dict | list | bool):
                continue
            text = str(value)
            secret = is_secret(path) or _is_misplaced(path[-1], text, named)
            hidden = findings.secrets if secret else findings.foreign
            forms = [environment.get(name, "") for name, _ in _REFERENCE.findall(text) if name]
            if secret:
                forms += [text, _REFERENCE.sub(lambda match: _held(match, environment), text)]
                forms += [name for name, _ in _REFERENCE.findall(text)]
            for form in forms:
                hidden.add(form, quoted(form)[1:-1])


def _held(match: re.Match[str], environment: Mapping[str, str]) -> str:
    """Returns the value of a reference in a string."""
    return "${" if match[1] is None else environment.get(match[1], match[0])


_NAMES_OF_SECRETS: Final = ("authentication", "authentication_ref", "proxy_authentication")


def _is_near_secrets(path: tuple[str | int, ...]) -> bool:
    """Returns whether a credential may have been put there by mistake."""
    return is_secret(path) or path[0] == "authentications" or path[-1] in _NAMES_OF_SECRETS


def _is_misplaced(key: str | int, text: str, named: set[str]) -> bool:
    """Returns whether this is the credential itself, where the name of one belongs."""
    if key not in _NAMES_OF_SECRETS:
        return False
    plain = text.removeprefix("authentications.")
    return plain not in named and not nearest(plain, named)


# -- the environment -------------------------------------------------------------------------------


def _fill(source: Source, findings: Findings, environment: Mapping[str, str]) -> Source:
    filled = {
        name: value
        if name in _LEFT_ALONE
        else _filled(value, (name,), source.file, findings, environment)
        for name, value in source.tables.items()
    }
    return Source(source.file, filled, source.tables)


def _filled(
    value: Any,
    path: tuple[str | int, ...],
    file: str,
    findings: Findings,
    environment: Mapping[str, str],
) -> Any:
    if isinstance(value, dict):
        return {
            name: _filled(held, (*path, name), file, findings, environment)
            for name, held in value.items()
        }
    if isinstance(value, list):
        return [
            _filled(held, (*path, index), file, findings, environment)
            for index, held in enumerate(value)
        ]
    if not isinstance(value, str) or "${" not in value:
        return value

    def replaced(match: re.Match[str]) -> str:
        name, end = match.groups()
        if name is None:
            return "${"
        if not end or not _VARIABLE.fullmatch(name):
            wrong, right = "${…} around something that names no variable", "${NAME}; $${ for a ${"
        elif name not in environment:
            right = "a variable that is set in the environment"
            wrong = f"a variable that is not set {HIDDEN}" if _is_near_secrets(path) else match[0]
        else:
            return environment[name]
        findings.fault(file, dotted(*path[:-1]), dotted(path[-1]), wrong, right)
        return match[0]

    return Filled(_REFERENCE.sub(replaced, value))


# -- file modes -----------------------------------------------------------------------------------


def _warn_of_readers(source: Source, findings: Findings) -> None:
    try:
        mode = Path(source.file).stat().st_mode
    except OSError:
        return  # it was removed
    if mode & stat.S_IROTH and _holds_secret(source.tables.get("authentications")):
        findings.warn(
            f"{source.file} holds credentials and every user of this machine can read it: "
            f"chmod o-r {quoted(source.file)}, or refer to a variable: ${{NAME}}"
        )


def _holds_secret(authentications: object) -> bool:
    entries = authentications.values() if isinstance(authentications, dict) else ()
    for entry in entries:
        options = entry.get("options") if isinstance(entry, dict) else None
        if isinstance(options, dict):
            values = [options.get(name) for name in _SECRETS]
            if any(isinstance(v, str) and v and not _is_reference(v) for v in values):
                return True
    return False


def _is_reference(text: str) -> bool:
    match = _REFERENCE.fullmatch(text)
    return match is not None and match[1] is not None
