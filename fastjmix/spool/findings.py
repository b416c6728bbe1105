"""Collects what a sweep finds and cannot handle: foreign files, and files that cannot be read.

Guaranteed: an error concerns one file. The log gets one line for each kind, with the first names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket

SHOWN: Final = 20
"""Names in one line of the log; the count is of all."""


class _Names:
    """The first SHOWN of many paths, and their count."""

    def __init__(self) -> None:
        self.count = 0
        self._paths: list[str] = []
        self._why: str | None = None

    def add(self, path: Path, why: str | None = None) -> None:
        shown = f"{path.parent.name}/{path.name}"
        if shown in self._paths:
            return
        self.count += 1
        if len(self._paths) < SHOWN:
            self._paths.append(shown)
        self._why = self._why or why

    def shown(self) -> dict[str, object]:
        return {"count": self.count, "names": ", ".join(self._paths), "problem": self._why}


class Findings:
    """The findings of one sweep."""

    def __init__(self) -> None:
        self._foreign = _Names()
        self._failed = _Names()

    def foreign(self, path: Path) -> None:
        """Notes a file that is not fastjmix's."""
        self._foreign.add(path)

    def entries(self, directory: Path) -> list[os.DirEntry[str]]:
        """Lists a directory; one that cannot be read is noted."""
        with self.about(directory), os.scandir(directory) as entries:
            return list(entries)
        return []

    @contextlib.contextmanager
    def about(self, path: Path) -> Iterator[None]:
        """Confines an error to this file."""
        try:
            yield
        except FileNotFoundError:
            pass  # another process has moved it
        except DamagedTicket:
            self._foreign.add(path)
        except OSError as problem:
            self._failed.add(path, problem.strerror)

    def log_foreign(self) -> None:
        """Logs the foreign files, if there are any."""
        if self._foreign.count:
            hint = "they are not fastjmix's, and are left alone"
            log.get().warning("foreign_files", **self._foreign.shown(), hint=hint)

    def log_failures(self) -> None:
        """Logs the files that could not be read, if there are any."""
        if self._failed.count:
            log.get().error("leftovers_unreadable", **self._failed.shown())
