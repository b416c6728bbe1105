"""Keeps the index of the embedded store: the envelopes that its directory holds.

Guaranteed: a file is in the index only if it was a valid envelope when it was read. A file of the
store's own name that is none becomes <id>.damaged; one that cannot be checked stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from fastjmix import log
from fastjmix.errors import EnvelopeError, printable
from fastjmix.jmix.read.admission import EnvelopeSummary, Limits, check_envelope
from fastjmix.spool.reading import open_archive
from fastjmix.spool.rename import rename_new

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey

NAME: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zip")
"""A name that the store gives."""

DAMAGED_MAX: Final = 100
"""Damaged files of one id that are renamed, each to a name of its own."""

SHOWN_NAMES: Final = 3
"""Names in a warning about many files."""


@dataclass(frozen=True, slots=True)
class Held:
    """One stored envelope in the index. `stored_ns`: Unix time of arrival, in ns."""

    id: str
    studies: tuple[str, ...]
    instances: int
    size_bytes: int
    stored_ns: int

    def entry(self, study: str | None = None) -> Mapping[str, Any]:
        """Returns the entry in a JSON list."""
        return {
            "id": self.id,
            "studyInstanceUid": study or (self.studies[0] if self.studies else None),
            "studyInstanceUids": self.studies,
            "state": "stored",
            "instances": self.instances,
            "sizeBytes": self.size_bytes,
        }


class Index:
    """The index over `directory`. `held` has each envelope that can be served, by id."""

    def __init__(self, directory: Path, limits: Limits, key: RecipientKey | None) -> None:
        self._directory = directory
        self._limits = limits
        self._key = key
        self.held: dict[str, Held] = {}

    def find_stored(self) -> None:
        """Indexes the envelopes that are here; logs which files are not in the index, and why."""
        found: dict[str, list[str]] = {"foreign": [], "unreadable": [], "locked": []}
        for entry in os.scandir(self._directory):
            if NAME.fullmatch(entry.name):
                result, why = self.admit(Path(entry.path))
                if result in found:
                    found[result].append(f"{entry.name} ({why})" if why else entry.name)
            elif entry.name.endswith(".zip"):
                found["foreign"].append(entry.name)
        warn("foreign_names_left", self._directory, found["foreign"])
        warn("envelopes_unreadable", self._directory, found["unreadable"])
        locked = "envelopes_of_another_key" if self._key else "envelopes_without_their_key"
        hint = "they are kept, and served as they are; name their key with --decryption-key"
        warn(locked, self._directory, found["locked"], hint=hint)

    def admit(self, path: Path, *, contents: bool = False) -> tuple[str, str]:
        """Indexes one file. Returns the result and the reason: "held", "locked" (indexed, not
        decrypted), "unreadable" or "damaged"; only a damaged one is renamed. With `contents` its
        images are read, too."""
        try:
            with open_archive(path) as file:
                summary, size, stored_ns = self._summary(file, path, contents)
        except EnvelopeError as problem:
            return self._rename_damaged(path, problem.message)
        except OSError as problem:
            return "unreadable", problem.strerror or str(problem)
        self.held[summary.id] = Held(
            summary.id, summary.studies, summary.instances, size, stored_ns
        )
        return ("locked" if summary.unopened else "held"), ""

    def _summary(
        self, file: BinaryIO, path: Path, contents: bool
    ) -> tuple[EnvelopeSummary, int, int]:
        """Returns the summary of a file that was stored, its size, and when. Raises EnvelopeError.

        A payload that cannot be decrypted is checked without the key: a wrong key is no fault of
        the file.
        """
        found = os.fstat(file.fileno())
        try:
            summary = check_envelope(file, self._limits, contents=contents, key=self._key)
        except EnvelopeError:
            summary = check_envelope(file, self._limits, contents=contents, unopened=True)
            if not summary.unopened:  # it is not encrypted, so its own fault counts
                raise
        if path.stem != summary.id:
            raise EnvelopeError(f"its manifest says {summary.id}")
        return summary, found.st_size, found.st_mtime_ns

    def _rename_damaged(self, path: Path, problem: str) -> tuple[str, str]:
        self.held.pop(path.stem, None)
        names = [path.with_suffix(".damaged")]
        names += [path.with_suffix(f".{number}.damaged") for number in range(2, DAMAGED_MAX + 1)]
        try:
            for name in names:
                with contextlib.suppress(FileExistsError):
                    rename_new(path, name)
                    log.get().warning("envelope_set_aside", file=path.name, problem=problem)
                    return "damaged", problem
        except OSError as failure:
            return "unreadable", f"{problem}; {failure.strerror or failure}"
        return "unreadable", f"{problem}; there are {DAMAGED_MAX} damaged files of this id already"

    def of_study(self, study: str | None = None) -> list[Held]:
        """Returns the envelopes of a study, or all, in no order."""
        held = list(self.held.values())  # at once: the threads that store and delete change it
        return [one for one in held if study is None or study in one.studies]


def warn(event: str, directory: Path, names: list[str], **more: str) -> None:
    """Logs one line about all of them."""
    if names:
        first = ", ".join(printable(name) for name in sorted(names)[:SHOWN_NAMES])
        log.get().warning(event, directory=str(directory), count=len(names), first=first, **more)
