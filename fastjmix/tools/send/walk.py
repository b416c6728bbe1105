"""Paths → files, and a reason for each entry that is no file.

Guaranteed: each entry of each folder is either given as a file or named with its reason: a folder
that cannot be listed, a link to a folder, a broken link, a FIFO, a socket, a device. Folders are
walked in name order, without recursion; nothing is opened.
"""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastjmix.errors import UsageError


@dataclass(frozen=True, slots=True)
class Skipped:
    """A path that was met and not taken, and the reason."""

    path: Path
    reason: str

    def row(self) -> dict[str, str]:
        """Returns it for JSON: a file's name need not be UTF-8."""
        return {"file": as_text(self.path), "reason": as_text(self.reason)}


def as_text(value: object) -> str:
    """Returns a path or a message as text that can be encoded in UTF-8."""
    return str(value).encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Names:
    """Patterns of file names that count in folders; a path that is named itself always counts."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def match(self, name: str) -> bool:
        """Returns whether a name fits a pattern of `include`, if there is one, and none of
        `exclude`."""
        wanted = not self.include or any(fnmatch.fnmatchcase(name, one) for one in self.include)
        return wanted and not any(fnmatch.fnmatchcase(name, one) for one in self.exclude)


EVERY: Final = Names()

NOT_THERE: Final = "no such file or directory"

_KINDS: Final = (
    (stat.S_ISFIFO, "is a FIFO, not a file"),
    (stat.S_ISSOCK, "is a socket, not a file"),
    (stat.S_ISCHR, "is a device, not a file"),
    (stat.S_ISBLK, "is a device, not a file"),
)


def require_there(paths: Iterable[Path]) -> None:
    """Raises UsageError naming each path that does not exist."""
    missing = [f"{path}: {NOT_THERE}" for path in paths if not os.path.lexists(path)]
    if missing:
        raise UsageError("\n    ".join(_counted(missing)))


def _counted(missing: list[str]) -> list[str]:
    return missing if len(missing) == 1 else [f"{len(missing)} paths do not exist", *missing]


def walk(paths: Iterable[Path], names: Names = EVERY) -> Iterator[Path | Skipped]:
    """Yields the regular files in the files and folders named, and everything else as Skipped.

    A link to a folder is followed where it is named itself, and not inside a folder. Raises
    UsageError for a path that does not exist.
    """
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as problem:
            if not os.path.lexists(path):
                raise UsageError(f"{path}: {NOT_THERE}") from None
            yield Skipped(path, _unreadable(problem))
            continue
        if stat.S_ISDIR(mode):
            yield from _folder(path, names)
        else:
            yield _regular(path, mode)


def _folder(top: Path, names: Names) -> Iterator[Path | Skipped]:
    """Yields what is in a folder and in those below it; a Skipped where there is nothing."""
    waiting = [(top, True)]
    met = False
    while waiting:
        here, is_folder = waiting.pop()
        if not is_folder:
            met = True
            found = _entry(here, names)
            if found is not None:
                yield found
            continue
        try:
            with os.scandir(here) as listed:
                inside = sorted(
                    (entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed
                )
        except OSError as problem:
            met = True
            yield Skipped(here, f"the folder cannot be listed: {problem.strerror or problem}")
            continue
        waiting += [(here / name, folder) for name, folder in reversed(inside)]
    if not met:
        yield Skipped(top, "the folder holds no file")


def _entry(path: Path, names: Names) -> Path | Skipped | None:
    """Returns an entry of a folder that is no folder. None: its name does not count."""
    try:
        mode = path.stat().st_mode
    except OSError as problem:  # a broken link; or it is gone, or may not be looked at
        return Skipped(path, _unreadable(problem)) if names.match(path.name) else None
    if stat.S_ISDIR(mode):
        return Skipped(path, "is a link to a folder, which is not followed")
    return _regular(path, mode) if names.match(path.name) else None


def _regular(path: Path, mode: int) -> Path | Skipped:
    if stat.S_ISREG(mode):
        return path
    return Skipped(path, next((words for is_it, words in _KINDS if is_it(mode)), "is not a file"))


def _unreadable(problem: OSError) -> str:
    return f"cannot be read: {problem.strerror or problem}"
