"""Tells whether a file is still where its path leads, and saves data that only open descriptors
hold.

Wanted: nothing is acknowledged into a directory that was deleted, moved away, replaced, or covered
by another mount.
Guaranteed: `leads_to` compares device and inode of what the path names with those of the file that
is open; a file that is open keeps its inode, so that equal means the same file. `save` copies what
was acknowledged before the directory went, out of the descriptors, into a fresh draft.
Still wrong: between the look and the answer there are some microseconds.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastjmix.spool.reading import is_file

if TYPE_CHECKING:
    from fastjmix.spool.draft import Leftover
    from fastjmix.spool.states import Spool, State

SEALED_STATES: Final[tuple[State, ...]] = ("outbox", "sent", "rejected")

Identity = tuple[int, int]
"""Device and inode."""


def identity(descriptor: int) -> Identity:
    """Returns the identity of an open file. Raises OSError."""
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def leads_to(path: str | Path, file: Identity) -> bool:
    """Tells whether this path names that file. Raises OSError when that cannot be told."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == file


@dataclass(frozen=True, slots=True)
class Held:
    """Descriptors of a draft to which no path led: of its archive, and of its journal or -1."""

    archive: int
    promises: int

    def close(self) -> None:
        """Closes the descriptors: their contents are wanted no more."""
        for descriptor in (self.archive, self.promises):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


def save(spool: Spool, leftover: Leftover) -> Leftover:
    """Returns a draft on the disk with everything that `leftover.held` was promised to keep.

    It is the same draft when its path leads to it again (its directory was moved back, its disk
    mounted again), else a fresh one. Raises OSError while the storage directory takes none.
    """
    held = leftover.held
    if held is None:
        return leftover
    if _is_there(spool, leftover, held):
        saved = replace(leftover, held=None)
    else:
        recipe = {key: value for key, value in leftover.recipe.items() if key != "replaces"}
        draft = spool.new_draft(recipe, durable=spool.durable)
        end = os.fstat(held.archive).st_size if leftover.end is None else leftover.end
        try:
            draft.take_over(held, end)
            draft.commit()
        except BaseException:
            draft.abandon()
            raise
        saved = draft.leave()
    held.close()
    return saved


def _is_there(spool: Spool, leftover: Leftover, held: Held) -> bool:
    """Tells whether it can be recovered from its paths. In another form, or sealed, its archive has
    left.
    """
    if leads_to(leftover.archive, identity(held.archive)) or leftover.sealed.exists():
        return True
    return any(is_file(spool.path(state, leftover.id)) for state in SEALED_STATES)
