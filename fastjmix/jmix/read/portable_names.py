"""Finds member names that some file system cannot hold, or takes for one.

Wanted: an envelope unpacks to the same files everywhere, or not at all.
Guaranteed: finds two names that differ only in their letters' case or in the form of an accented
letter, and names that Windows reserves for devices or would shorten. Each component of a name is
looked at once.
Still wrong: some file systems have further rules.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from typing import Final

_devices: Final = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{port}{number}" for port in ("com", "lpt") for number in (*range(10), "¹", "²", "³")]
)
_unfit: Final = frozenset('<>:"|?*')


def clashes(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields (name, why) for names that would become one file, or none."""
    known: dict[str, str] = {}  # folder → its form for comparison
    first: dict[str, str] = {}  # form for comparison → the first path
    for name in names:
        folder = name.rpartition("/")[0]
        # every folder of it too: on some file systems "A/x" and "a/y" are in one folder
        for path in [*_new_folders(folder, known), name]:
            above, _, last = path.rpartition("/")
            alike = f"{known[above]}/{_alike(last)}" if above else _alike(last)
            if path != name:
                known[path] = alike
            other = first.setdefault(alike, path)
            if other != path:
                yield name, f"differs from {other} only in its letters' case or form"
                break
        if why := _unfit_for_windows(name.split("/")):
            yield name, why


def _new_folders(folder: str, known: dict[str, str]) -> list[str]:
    """Returns the folder and those above it that are not known yet, from the top."""
    found = []
    while folder and folder not in known:
        found.append(folder)
        folder = folder.rpartition("/")[0]
    return found[::-1]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _unfit_for_windows(parts: list[str]) -> str:
    for part in parts:
        if part.split(".")[0].rstrip(" ").casefold() in _devices:
            return "has a name that Windows keeps for a device"
        if part.endswith((".", " ")):
            return "has a name that ends with a dot or a space, which Windows takes away"
        if not _unfit.isdisjoint(part):
            return "has a character in its name that Windows does not have"
    return ""
