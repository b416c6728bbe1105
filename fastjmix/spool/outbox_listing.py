"""Lists outbox/: the envelopes that wait for their upstream.

Guaranteed: the age of an envelope is that of its archive. A file that is moved meanwhile is left
out.
"""

from __future__ import annotations

import contextlib
import heapq
import os
from collections.abc import Callable
from pathlib import Path

from fastjmix.spool import names


def _sealed_at(entry: os.DirEntry[str]) -> tuple[float, str] | None:
    """Returns when an archive was sealed, and its id; None for another file, or a moved one."""
    found = names.sealed(entry.name)
    if found is None or found[1] != "zip" or not entry.is_file(follow_symlinks=False):
        return None
    with contextlib.suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_mtime, found[0]
    return None


def _is_ours(entry: os.DirEntry[str]) -> bool:
    """Returns True for a regular file with a name of ours, or one that has just been moved."""
    ours = names.sealed(entry.name) or names.part(entry.name) or names.unfinished(entry.name)
    return ours is not None and (
        entry.is_file(follow_symlinks=False) or not os.path.lexists(entry.path)
    )


class OutboxListing:
    """The envelopes in outbox/, read from the directory at each call."""

    def __init__(self, outbox: Path) -> None:
        self._outbox = outbox

    def ids(
        self,
        known: Callable[[str], bool] | None = None,
        foreign: Callable[[str], object] | None = None,
    ) -> list[str]:
        """Returns the ids in outbox/ that are not `known`, oldest first. Raises OSError.

        Calls `foreign` with each name there that is not ours.
        """
        new = []
        with os.scandir(self._outbox) as entries:
            for entry in entries:
                ours = names.sealed(entry.name)
                if ours is not None and ours[1] == "zip" and known is not None and known(ours[0]):
                    continue
                if (one := _sealed_at(entry)) is not None:
                    new.append(one)
                elif foreign is not None and not _is_ours(entry):
                    foreign(entry.name)
        return [name for _, name in sorted(new)]

    def oldest(self) -> float | None:
        """Returns when the oldest envelope in outbox/ was sealed, in Unix seconds; None when there
        is none. Raises OSError."""
        with os.scandir(self._outbox) as entries:
            return min(
                (one[0] for one in map(_sealed_at, entries) if one is not None), default=None
            )

    def some(self, after: tuple[float, str], before: float, count: int) -> list[tuple[float, str]]:
        """Returns the `count` oldest envelopes in outbox/ behind `after` that were sealed before
        `before`: (Unix seconds, id) each. Raises OSError."""
        with os.scandir(self._outbox) as entries:
            found = (one for one in map(_sealed_at, entries) if one is not None)
            return heapq.nsmallest(count, (one for one in found if after < one < (before, "")))
