"""Deletes drafts: by one rename first, so that what is half deleted never counts again."""

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
    """Deletes a draft that counts no more. Raises OSError while it looks as if it did.

    One rename decides: a `.draft` is swept by a successor. So a process that ends between two of
    its files leaves nothing that stays until the next start; and of two drafts with the same
    promises (`durable`, for a copy that is) one is recovered.
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
        with contextlib.suppress(OSError):  # what stays is deleted by a successor
            remove_draft(gone)


def remove_draft(directory: Path) -> bool:
    """Deletes a draft's directory and what of ours is in it; False when something else was, too.

    Raises OSError.
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
