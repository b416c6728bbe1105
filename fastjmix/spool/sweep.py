"""Finishes, undoes or deletes the unfinished work of a process that ended.

Wanted: a process handles the remains of its predecessor, and a start those of all processes. No
file in a directory makes either fail.
Guaranteed: only files with names of ours are touched (names.py), and of these only regular files
and our own directories in which nothing was promised. Files of a running process are not touched.
An error concerns one file: it is logged, and the next sweep tries again. Foreign files stay, and a
start names them in one warning.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastjmix import log
from fastjmix.jmix.ids import is_id
from fastjmix.spool import ends, journal, names
from fastjmix.spool.cut_off_moves import CutOffMoves
from fastjmix.spool.directories import Directories
from fastjmix.spool.draft import Leftover
from fastjmix.spool.drafts import Drafts
from fastjmix.spool.drop import remove_draft
from fastjmix.spool.findings import Findings
from fastjmix.spool.holds import Holds
from fastjmix.spool.reading import is_file, read_small
from fastjmix.spool.recipe import Recipe

LOCAL_HEADER: Final = b"PK\3\4"
"""The first bytes of an archive that has a member (APPNOTE 4.3.7)."""


class Sweep:
    """One pass over all files in the spool. It raises only errors that end the process."""

    def __init__(self, spool: Directories, drafts: Drafts) -> None:
        self._spool = spool
        self._drafts = drafts
        self._findings = Findings()

    def at_start(self) -> None:
        """Sweeps the files of all processes, while no other process uses the spool; names foreign
        files."""
        self._unfinished(None)
        self._drafts_without_recipe()
        CutOffMoves(self._spool, self._findings).end()
        with self._findings.about(self._spool.outbox):
            Holds(self._spool).remove_without_archive()
            ends.remove_alone(self._spool)
        self._orphans()
        self._foreign_records()
        self._findings.log_foreign()
        self._findings.log_failures()

    def after(self, owner: str) -> None:
        """Sweeps the files of an earlier process of this name, while the others run."""
        self._unfinished(owner)
        if owner in ("uploader", "api"):
            CutOffMoves(self._spool, self._findings).end()
        if owner == "uploader":
            with self._findings.about(self._spool.outbox):
                ends.remove_alone(self._spool)
        self._findings.log_failures()

    # -- unfinished files ----------------------------------------------------------------------

    def _unfinished(self, owner: str | None) -> None:
        """Deletes files that were being made, by `owner` or (None) by any process."""
        spool = self._spool
        made = (spool.building, spool.outbox, spool.sent, spool.rejected, spool.provenance)
        for directory in made:
            for entry in self._findings.entries(directory):
                found = names.unfinished(entry.name)
                if found is None or (owner is not None and found[0] != owner):
                    continue
                with self._findings.about(Path(entry.path)):
                    self._delete(entry, found[2], directory)

    def _delete(self, entry: os.DirEntry[str], ending: str, directory: Path) -> None:
        in_building = directory == self._spool.building
        if ending == "draft" and in_building and entry.is_dir(follow_symlinks=False):
            if not remove_draft(Path(entry.path)):
                self._findings.foreign(Path(entry.path))
        elif (
            ending != "draft"
            and (in_building or ending == "new")
            and entry.is_file(follow_symlinks=False)
        ):
            Path(entry.path).unlink()
        else:
            self._findings.foreign(Path(entry.path))

    # -- drafts --------------------------------------------------------------------------------

    def _drafts_without_recipe(self) -> None:
        for entry in self._findings.entries(self._spool.building):
            path = Path(entry.path)
            if names.unfinished(entry.name):
                continue
            with self._findings.about(path):
                if not is_id(entry.name) or not entry.is_dir(follow_symlinks=False):
                    self._findings.foreign(path)
                elif self._drafts.leftover(entry.name) is None:
                    self._without_recipe(path)

    def _without_recipe(self, directory: Path) -> None:
        """Keeps a draft that may hold acknowledged instances for a person; deletes an empty one.

        A draft of ours has a journal from its first moment on, or an archive that begins with a
        local file header.
        """
        leftover = Leftover(directory.name, directory)
        archives = (leftover.archive, leftover.sealed)
        inside = list(directory.iterdir())
        ours = all(names.in_draft(one.name) and is_file(one) for one in inside)
        made_here = is_file(directory / journal.NAME) or any(map(_is_archive, archives))
        if not (ours and made_here) or self._has_recipe(directory):
            self._findings.foreign(directory)
        elif any(is_file(one) and one.lstat().st_size for one in archives):
            why = "its draft.json cannot be read"
            self._drafts.reject(leftover, why)
            kept = f"rejected/{leftover.id}.zip"
            log.get().error("envelope_damaged", envelope=leftover.id, why=why, kept=kept)
        else:
            remove_draft(directory)

    def _has_recipe(self, directory: Path) -> bool:
        """Returns whether draft.json is one of ours. Raises OSError: it may be readable later."""
        try:
            return Recipe.read(directory) is not None
        except FileNotFoundError:
            return False

    # -- provenance ----------------------------------------------------------------------------

    def _orphans(self) -> None:
        """Deletes each provenance whose envelope is in no state."""
        spool = self._spool
        recorded = {
            found[0]: Path(entry.path)
            for entry in self._findings.entries(spool.provenance)
            if (found := names.sealed(entry.name)) is not None and found[1] == "json"
        }
        for directory in (spool.building, spool.outbox, spool.sent, spool.rejected):
            if not recorded or not self._leave_out(recorded, directory):
                return
        for path in recorded.values():
            with self._findings.about(path):
                path.unlink()

    def _leave_out(self, recorded: dict[str, Path], directory: Path) -> bool:
        """Removes the envelopes of a directory from `recorded`. Returns False when it cannot be
        listed."""
        with self._findings.about(directory), os.scandir(directory) as entries:
            for entry in entries:
                found = names.sealed(entry.name)
                recorded.pop(entry.name if found is None else found[0], None)
            return True
        return False

    # -- foreign files --------------------------------------------------------------------------

    def _foreign_records(self) -> None:
        spool = self._spool
        for directory in (spool.outbox, spool.sent, spool.rejected, spool.provenance):
            for entry in self._findings.entries(directory):
                ours = names.sealed(entry.name) is not None or (
                    directory == spool.outbox and names.part(entry.name) is not None
                )
                if not (ours and entry.is_file(follow_symlinks=False)) and (
                    names.unfinished(entry.name) is None
                ):
                    self._findings.foreign(Path(entry.path))


def _is_archive(path: Path) -> bool:
    """Returns True for a file that begins with a local file header. Raises OSError."""
    return is_file(path) and read_small(path, len(LOCAL_HEADER)) == LOCAL_HEADER
