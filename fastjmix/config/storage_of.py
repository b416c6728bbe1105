"""Finds the storage directory that a configuration names, without needing its secrets.

A person at the node often has no JMIX_TOKEN in the environment, and the tables' models take 60 ms:
so the one value is read alone. Where that is not plain, the whole configuration is loaded, which
says what is wrong.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fastjmix.config import load
from fastjmix.config.bounds import CONFIG_BYTES_MAX


def storage_of(path: Path) -> Path:
    """Returns the storage directory of the configuration at `path`. Raises ConfigError."""
    found = _plain(path)
    return load(path).storage_dir if found is None else Path(found).absolute()


def _plain(path: Path) -> str | None:
    """Returns [storage.options] path as it stands; None where it is not there, or has more in it
    than a path."""
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX)
        tables: Any = tomllib.loads(text.decode("utf-8"))
        found = tables["storage"]["options"]["path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) and found and "$" not in found else None
