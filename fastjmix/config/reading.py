"""The files: main and pipelines, as raw tables with `${VAR}` filled in. Nothing is interpreted.

Wanted: any number of files read as one configuration, and each table known by its file.
Guaranteed: a file that cannot be read or is not TOML is a fault with its place; the environment is
put into string values only, never into keys; a value that came from it is shown in no fault.
Still wrong: no reload; a changed file is read at the next start.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastjmix.config.faults import Findings, dotted, quoted, shown

_PLACE: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)
_REFERENCE: Final = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRETS: Final = ("token", "username", "password", "api_key")

# The cloud's tables mean nothing here, so a variable that only they need must not be missed.
_LEFT_ALONE: Final = ("provider", "runbeam", "management")

DEFAULT_PIPELINES_PATH: Final = "pipelines"


class Filled(str):
    """A string that the environment had a part in: no fault may show it."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Source:
    """One file's tables. `file` is its path as the operator would write it."""

    file: str
    tables: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """The main file first, then the pipeline files by name. `complete` False: one was unreadable,
    so that what is not found may stand there."""

    files: tuple[Source, ...]
    complete: bool


def read(path: Path, findings: Findings, environment: Mapping[str, str]) -> Sources:
    """Reads the main file `path` and every *.toml of its pipelines_path."""
    main = _parse(path, findings)
    if main is None:
        return Sources((), complete=False)
    pipelines = [_parse(one, findings) for one in _pipeline_files(path, main, findings)]
    raw = [main, *(one for one in pipelines if one is not None)]
    for source in raw:
        _warn_of_readers(source, findings)
    filled = tuple(_fill(source, findings, environment) for source in raw)
    return Sources(filled, complete=None not in pipelines)


def _parse(path: Path, findings: Findings) -> Source | None:
    try:
        text = path.read_bytes().decode()
    except OSError as problem:
        findings.fault(str(path), "", "", problem.strerror or str(problem), "a readable TOML file")
        return None
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        found = f"a byte that is not UTF-8: 0x{problem.object[problem.start]:02x}"
        findings.fault(str(path), "", f"line {line}", found, "TOML 1.0, in UTF-8")
        return None
    try:
        return Source(str(path), tomllib.loads(text))
    except (ValueError, RecursionError) as problem:
        match = _PLACE.fullmatch(str(problem))
        found, line_number, column = match.groups() if match else (str(problem), None, None)
        place = f"line {line_number}, column {column}" if line_number else "end of document"
        findings.fault(str(path), "", place if match else "", found, "TOML 1.0")
        return None


def _pipeline_files(path: Path, main: Source, findings: Findings) -> list[Path]:
    proxy = main.tables.get("proxy")
    named = proxy.get("pipelines_path") if isinstance(proxy, dict) else None
    if named is not None and not (isinstance(named, str) and named):
        return []  # its own fault is found when the table is checked
    directory = path.parent / (named or DEFAULT_PIPELINES_PATH)
    try:
        found = sorted(one for one in directory.iterdir() if _is_pipeline_file(one, path))
    except OSError as problem:
        if not main.tables.get("pipelines"):
            findings.fault(
                main.file,
                "proxy",
                "pipelines_path",
                f"{shown(named or DEFAULT_PIPELINES_PATH)}: {problem.strerror}: {directory}",
                "a directory of *.toml files, relative to the main file; or pipelines in the main"
                " file itself",
            )
        return []
    return found


def _is_pipeline_file(candidate: Path, main: Path) -> bool:
    visible = candidate.suffix == ".toml" and not candidate.name.startswith(".")
    return visible and candidate.is_file() and not candidate.samefile(main)


# -- the environment -------------------------------------------------------------------------------


def _fill(source: Source, findings: Findings, environment: Mapping[str, str]) -> Source:
    filled = {
        name: value
        if name in _LEFT_ALONE
        else _filled(value, (name,), source.file, findings, environment)
        for name, value in source.tables.items()
    }
    return Source(source.file, filled)


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
            wrong, right = f"${{{name}}}", "a variable that is set in the environment"
        else:
            return environment[name]
        findings.fault(file, dotted(*path[:-1]), dotted(path[-1]), wrong, right)
        return match[0]

    return Filled(_REFERENCE.sub(replaced, value))


# -- who can read it -------------------------------------------------------------------------------


def _warn_of_readers(source: Source, findings: Findings) -> None:
    mode = Path(source.file).stat().st_mode
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
