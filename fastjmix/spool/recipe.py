"""Reads and checks draft.json: how any process can finish a draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from fastjmix.spool.lock import FORMAT
from fastjmix.spool.names import is_id
from fastjmix.spool.reading import read_small

NAME: Final = "draft.json"

BYTES_MAX: Final = 1 << 20
"""Bytes read of a recipe: it is a few KB, with the parties' keys."""

PACKERS_MAX: Final = 1 << 16
"""A packer's number is below this."""


def _text(value: object) -> bool:
    return isinstance(value, str)


def _switch(value: object) -> bool:
    return isinstance(value, bool)


CHECKS: Final[Mapping[str, Callable[[object], bool]]] = {
    "format": lambda value: type(value) is int and value == FORMAT,
    "packer": lambda value: type(value) is int and 0 <= value < PACKERS_MAX,
    "pipeline": _text,
    "upstream": _text,
    "ack": lambda value: value in ("stored", "uploaded"),
    "profile": _text,
    "digest": _text,
    "skip_hashing": _switch,
    "skip_listing": _switch,
    "calling_ae": _text,
    "replaces": lambda value: value is None or (isinstance(value, str) and is_id(value)),
    "published": lambda value: value is None or isinstance(value, dict),
}
"""Checks of each key that recovery needs: is its value one that we write? An id becomes a path."""


def read(directory: Path) -> Mapping[str, Any] | None:
    """Returns the recipe of a draft; None when it is not one of ours. Raises OSError."""
    try:
        found = orjson.loads(read_small(directory / NAME, BYTES_MAX))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict):
        return None
    found.setdefault("format", FORMAT)
    return found if all(check(found.get(key)) for key, check in CHECKS.items()) else None
