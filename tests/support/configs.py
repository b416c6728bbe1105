"""Configuration files for tests: one of the two sets in this repository, with changes in TOML."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fastjmix import config
from fastjmix.config import ConfigError, Fault

ROOT = Path(__file__).resolve().parents[2]
HARMONY = ROOT / "tests" / "data" / "harmony"

IN_PIPELINES = ("pipelines", "endpoints", "middleware", "backends")


def written(at: Path, changes: str = "", without: str = "", base: Path = HARMONY) -> Path:
    """Writes the set `base` into the directory `at`, with `changes` merged in, key by key, and the
    dotted keys in `without` left out (first). Returns the main file."""
    main = tomllib.loads((base / "config.toml").read_text())
    pipelines = tomllib.loads((base / "pipelines" / "dicom-to-jmix.toml").read_text())
    for path in without.split():
        first, *rest = path.split(".")
        table = pipelines if first in IN_PIPELINES else main
        for step in [first, *rest][:-1]:
            table = table[step]
        del table[path.rpartition(".")[2]]
    for name, change in tomllib.loads(changes).items():
        _merge(pipelines if name in IN_PIPELINES else main, {name: change})
    shutil.rmtree(at / "pipelines", ignore_errors=True)
    (at / "pipelines").mkdir(parents=True)
    (at / "config.toml").write_text(toml(main))
    (at / "pipelines" / "dicom-to-jmix.toml").write_text(toml(pipelines))
    (at / "config.toml").chmod(0o600)
    return at / "config.toml"


def loaded(at: Path, changes: str = "", without: str = "", base: Path = HARMONY) -> config.Config:
    """Loads what `written` writes. Raises config.ConfigError."""
    return config.load(written(at, changes, without, base))


def faults(at: Path, changes: str = "", without: str = "") -> tuple[Fault, ...]:
    """Returns the faults of what `written` writes."""
    with pytest.raises(ConfigError) as caught:
        loaded(at, changes, without)
    return caught.value.faults


def only(at: Path, changes: str = "", without: str = "") -> Fault:
    """The one thing that is wrong with it."""
    found = faults(at, changes, without)
    assert len(found) == 1, "\n\n".join(map(str, found))
    return found[0]


def _merge(into: dict[str, Any], change: dict[str, Any]) -> None:
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value


def toml(tables: dict[str, Any]) -> str:
    """These tables as TOML, every table below the top level written inline."""
    return "".join(f"{json.dumps(name)} = {inline(held)}\n" for name, held in tables.items())


def inline(value: Any) -> str:
    """One value as TOML."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(name)} = {inline(held)}" for name, held in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
