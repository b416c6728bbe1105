"""Names that are well in a ZIP, and not in every file system that it may be unpacked on.

Wanted: an envelope unpacks to the same files everywhere, or not at all.
Guaranteed: two names that some file system takes for one are what (letters' case, forms of the same
accented letter), and names that Windows keeps for its devices or would shorten. Each component of a
name is looked at once.
Still wrong: file systems have ideas of their own beyond these.
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
    """(name, why) for names that would become one file, or none."""
    known: dict[str, str] = {}  # folder → its form for comparison
    seen: dict[str, str] = {}  # form for comparison → the first path
    for name in names:
        folder = name.rpartition("/")[0]
        # every folder of it too: "A/x" and "a/y" do not lie in one folder everywhere
        for path in [*_new_folders(folder, known), name]:
            above, _, last = path.rpartition("/")
            alike = f"{known[above]}/{_alike(last)}" if above else _alike(last)
            if path != name:
                known[path] = alike
            other = seen.setdefault(alike, path)
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
