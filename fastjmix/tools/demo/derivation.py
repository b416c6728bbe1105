"""A configuration with other addresses: as it was given, comments and order included.

Guaranteed: only the values at the keys that are asked for differ, or DemoError is raised.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

import fastjmix
from fastjmix.errors import FastjmixError

LOOPBACK: Final = "127.0.0.1"

ANY_PORT: Final = 0
"""The system chooses a port; the gateway's log says which."""

Key: TypeAlias = tuple[str, ...]
"""Such as ("network", "dicom_net", "tcp_config", "bind_port")."""


class DemoError(FastjmixError):
    """The demonstration could not be finished. The message names the log to look at."""


def default_config() -> Path:
    """Returns the configuration in the working directory, or else the one of fastjmix.

    setup.py puts that one into the package of a wheel; in the repository it is beside the package.
    """
    package = Path(fastjmix.__file__).parent
    places = (Path(), package / "defaults", package.parent)
    found = (place / "config.toml" for place in places)
    return next((path for path in found if path.is_file()), Path("config.toml"))


def near(path: Path) -> str:
    """Returns a path as a person in the working directory would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def storage_of(config: Path) -> Path:
    """Returns the storage directory that a configuration names: relative to the working directory
    of the gateway."""
    tables = tomllib.loads(config.read_text(encoding="utf-8"))
    return Path(tables.get("storage", {}).get("options", {}).get("path", "./tmp"))


def derive(config: Path, directory: Path, upstream: str) -> str:
    """Copies a configuration and its pipelines into `directory`, with addresses of this run.

    Listeners move to free ports of the loopback interface, targets to `upstream` (an URL). Returns
    the difference as a unified diff. Raises DemoError for a key it cannot find again in the text.
    """
    main = tomllib.loads(config.read_text(encoding="utf-8"))
    pipelines = Path(main.get("proxy", {}).get("pipelines_path", "pipelines"))
    sources = [config, *sorted((config.parent / pipelines).glob("*.toml"))]
    difference: list[str] = []
    for source in sources:
        relative = Path(config.name) if source == config else pipelines / source.name
        before = source.read_text(encoding="utf-8")
        after = rewrite(before, _changes(tomllib.loads(before), urlsplit(upstream)))
        target = directory / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(after, encoding="utf-8")
        difference += difflib.unified_diff(
            before.splitlines(), after.splitlines(), near(source), near(target), n=0, lineterm=""
        )
    return "\n".join(difference)


def _changes(tables: Mapping[str, Any], upstream: SplitResult) -> dict[Key, Any]:
    """Returns the keys of addresses in these tables, with the values that this run needs."""
    wanted: dict[Key, Any] = {}
    for path, table in _tables(tables):
        listens = path[:1] == ("network",) and path[-1] in ("tcp_config", "http")
        if listens and "bind_port" in table:
            wanted[(*path, "bind_port")] = ANY_PORT
        if listens and "bind_address" in table:
            wanted[(*path, "bind_address")] = LOOPBACK
        if path[:1] == ("targets",) and path[-1] == "connection":
            wanted[(*path, "host")] = upstream.hostname
            wanted[(*path, "port")] = upstream.port
            wanted[(*path, "protocol")] = upstream.scheme
        if path == ("storage", "options") and Path(table.get("path", "")).is_absolute():
            wanted[(*path, "path")] = "./tmp"
        if path == ("logging",) and Path(table.get("log_file_path", "")).is_absolute():
            wanted[(*path, "log_file_path")] = "./tmp/fastjmix.log"
        if path[:1] == ("peers",) and path[-1] == "connection" and _is_ours(tables, table):
            wanted[(*path, "host")] = LOOPBACK
            wanted[(*path, "port")] = ANY_PORT
    return wanted


def _is_ours(tables: Mapping[str, Any], connection: Mapping[str, Any]) -> bool:
    """Returns whether a peer's connection repeats the address of a listener of the gateway."""
    ports = [table["bind_port"] for _, table in _tables(tables) if "bind_port" in table]
    return connection.get("port") in ports and "host" in connection


def _tables(table: Mapping[str, Any], path: Key = ()) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    yield path, table
    for name, inner in table.items():
        if isinstance(inner, dict):
            yield from _tables(inner, (*path, name))


def _at(tables: Mapping[str, Any], key: Key) -> Any:
    found: Any = tables
    for part in key:
        found = found[part]
    return found


def rewrite(text: str, changes: Mapping[Key, Any]) -> str:
    """Returns TOML with other values at some keys; comments, order and all else as they were.

    Knows `key = value` and `dotted.key = value` lines under `[table]` headings, which is how the
    configuration is written. Raises DemoError if the result is not exactly what was asked for.
    """
    table: Key = ()
    lines = []
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _key(stripped.split("#")[0])
        elif "=" in stripped and not stripped.startswith("#"):
            name = line.split("=", 1)[0]
            key = (*table, *_key(f"[{name.strip()}]"))
            if key in changes:
                statement = f"{name}= {_literal(changes[key])}"
                line = _with_comment(line, statement) or statement + "\n"
        lines.append(line)
    result = "".join(lines)
    wanted = tomllib.loads(text)
    for key, value in changes.items():
        _at(wanted, key[:-1])[key[-1]] = value
    if tomllib.loads(result) != wanted:
        names = ", ".join(".".join(key) for key in changes)
        raise DemoError(f"the demonstration could not find all of {names} in the configuration")
    return result


def _key(heading: str) -> Key:
    """Returns the path in "[a.b]" or "[[a.b]]"; bare and quoted parts without dots inside."""
    return tuple(part.strip().strip("\"'") for part in heading.strip().strip("[]").split("."))


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'


def _with_comment(line: str, statement: str) -> str:
    """Returns a new statement with the comment of the old line at the same place; "" where the
    line has none. (These are addresses and paths, without a "#" in a string.)"""
    before, sign, comment = line.partition("#")
    return statement.ljust(max(len(before), len(statement) + 2)) + sign + comment if sign else ""
