"""Deletes drafts. The first step is one rename: a draft that is half deleted never counts again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fastjmix.errors import LimitReached, storage_error
from fastjmix.failpoints import reach
from fastjmix.spool import names
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import sync_directory
from fastjmix.spool.reading import is_directory
from fastjmix.spool.rename import rename_new


def drop(spool: Directories, directory: Path, *, durable: bool = False) -> None:
    """Deletes a draft that no longer counts. Raises OSError while its name says that it does.

    One rename decides: the successor of this process deletes a `.draft` (sweep.py), so that nothing
    stays until the next start when this process ends in between. `durable` is for a draft whose
    durable copy has the same promises: only one of the two is recovered.
    """
    gone = spool.draft_name()
    rename_new(directory, gone)
    if durable and spool.durable:
        try:
            sync_directory(spool.building)
        except OSError:
            rename_new(gone, directory)  # it counts as before
            raise
    try:
        reach("spool.dropping")
    finally:
        with contextlib.suppress(OSError):  # the successor deletes the remains
            remove_draft(gone)


def remove_draft(directory: Path) -> bool:
    """Deletes a draft's directory and our files in it.

    Returns False when other files are in it: those stay, and so does the directory. Raises OSError.
    """
    try:
        found = list(directory.iterdir())
    except OSError as problem:
        if not isinstance(storage_error(problem), LimitReached):
            raise
        found = [directory / name for name in names.DRAFT_FILES]  # no descriptor to list it with
    for one in found:
        if names.in_draft(one.name) and not is_directory(one):
            one.unlink(missing_ok=True)
    try:
        directory.rmdir()
    except OSError:
        if any(directory.iterdir()):
            return False
        raise
    return True
