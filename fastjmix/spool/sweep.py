"""Finishes, undoes or deletes the unfinished work of a process that ended.

Wanted: a process handles the remains of its predecessor, and a start those of all processes. No
file in a directory makes either fail.
Guaranteed: only files with names of ours are touched (names.py), and of these only regular files
and our own directories in which nothing was promised. Files of a running process are not touched.
An error concerns one file: it is logged, and the next sweep tries again. Foreign files stay, and a
start names them in one warning.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import journal, names
from fastjmix.spool.directories import Directories, State
from fastjmix.spool.draft import Leftover
from fastjmix.spool.drafts import Drafts
from fastjmix.spool.drop import remove_draft
from fastjmix.spool.files import rename_synced
from fastjmix.spool.reading import is_file, read_small
from fastjmix.spool.recipe import Recipe
from fastjmix.spool.rename import same_file
from fastjmix.spool.ticket import Ticket

SHOWN: Final = 20
"""Names in one line of the log; the count is of all."""

LOCAL_HEADER: Final = b"PK\3\4"
"""The first bytes of an archive that has a member (APPNOTE 4.3.7)."""


class Sweep:
    """One pass over all files in the spool. It raises only errors that end the process."""

    def __init__(self, spool: Directories, drafts: Drafts) -> None:
        self._spool = spool
        self._drafts = drafts
        self._foreign = _Names()
        self._failed = _Names()

    def at_start(self) -> None:
        """Sweeps the files of all processes, while no other process uses the spool; names foreign
        files."""
        self._unfinished(None)
        self._drafts_without_recipe()
        self._steps()
        self._foreign_records()
        if self._foreign.count:
            hint = "they are not fastjmix's, and are left alone"
            log.get().warning("foreign_files", **self._foreign.shown(), hint=hint)
        self._log_failures()

    def after(self, owner: str) -> None:
        """Sweeps the files of an earlier process of this name, while the others run."""
        self._unfinished(owner)
        if owner in ("uploader", "api"):
            self._steps()
        self._log_failures()

    def _log_failures(self) -> None:
        if self._failed.count:
            log.get().error("leftovers_unreadable", **self._failed.shown())

    # -- unfinished files ----------------------------------------------------------------------

    def _unfinished(self, owner: str | None) -> None:
        """Deletes files that were being made, by `owner` or (None) by any process."""
        spool = self._spool
        for directory in (spool.building, spool.outbox, spool.sent, spool.rejected):
            for entry in self._entries(directory):
                found = names.unfinished(entry.name)
                if found is None or (owner is not None and found[0] != owner):
                    continue
                with self._about(Path(entry.path)):
                    self._delete(entry, found[2], directory)

    def _delete(self, entry: os.DirEntry[str], ending: str, directory: Path) -> None:
        in_building = directory == self._spool.building
        if ending == "draft" and in_building and entry.is_dir(follow_symlinks=False):
            if not remove_draft(Path(entry.path)):
                self._foreign.add(Path(entry.path))
        elif (
            ending != "draft"
            and (in_building or ending == "new")
            and entry.is_file(follow_symlinks=False)
        ):
            Path(entry.path).unlink()
        else:
            self._foreign.add(Path(entry.path))

    # -- drafts --------------------------------------------------------------------------------

    def _drafts_without_recipe(self) -> None:
        for entry in self._entries(self._spool.building):
            path = Path(entry.path)
            if names.unfinished(entry.name):
                continue
            with self._about(path):
                if not is_id(entry.name) or not entry.is_dir(follow_symlinks=False):
                    self._foreign.add(path)
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
            self._foreign.add(directory)
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

    # -- steps ---------------------------------------------------------------------------------

    def _steps(self) -> None:
        """Ends steps whose archive did not follow its record: moves the archive, or deletes the
        record.

        A ticket of a running packer or API may be alone for a moment, while its archive is in
        building/. So the sweep lists building/ after outbox/, and looks into outbox/ once more.
        """
        states: tuple[State, ...] = ("sent", "rejected")
        waiting = self._sealed(self._spool.outbox)["zip"]
        for state in states:
            there = self._sealed(self._spool.root / state)
            for envelope_id in there["zip"] & waiting:
                with self._about(self._spool.path("outbox", envelope_id)):
                    self._end_link(state, envelope_id)
            for envelope_id in there["json"] - there["zip"]:
                record = self._spool.root / state / f"{envelope_id}.json"
                with self._about(record):
                    self._finish_move(state, record)
        there = self._sealed(self._spool.outbox)
        if alone := there["json"] - there["zip"]:
            made = {_made(entry.name) for entry in self._entries(self._spool.building)}
            for envelope_id in alone.difference(filter(None, made)):
                record = self._spool.outbox / f"{envelope_id}.json"
                with self._about(record):
                    if not os.path.lexists(record.with_suffix(".zip")):
                        _ours(record)
                        record.unlink()

    def _end_link(self, state: State, envelope_id: str) -> None:
        """Ends a rename of two steps (rename.py) whose second step was not taken."""
        waiting, there = (self._spool.path(one, envelope_id) for one in ("outbox", state))
        if same_file(waiting, there):
            _ours(there.with_suffix(".json"))
            waiting.unlink()

    def _finish_move(self, state: State, record: Path) -> None:
        there = _ours(record)
        envelope_id = str((there.refusal or {}).get("envelope", there.id))
        waiting = self._spool.path("outbox", envelope_id)
        if is_id(envelope_id) and is_file(waiting):
            ticket = self._spool.ticket("outbox", envelope_id)
            if ticket.unended() == replace(there.unended(), id=envelope_id):
                rename_synced(waiting, record.with_suffix(".zip"), durable=self._spool.durable)
        elif state == "sent" and there.receipt is not None:
            record.unlink()  # retention had begun with it

    def _sealed(self, directory: Path) -> dict[str, set[str]]:
        """Ids of archives ("zip") and of records ("json") in a directory."""
        found: dict[str, set[str]] = {"zip": set(), "json": set()}
        for entry in self._entries(directory):
            ours = names.sealed(entry.name)
            # Any file with an archive's name occupies its place.
            if ours is not None and (ours[1] == "zip" or entry.is_file(follow_symlinks=False)):
                found[ours[1]].add(ours[0])
        return found

    # -- foreign files --------------------------------------------------------------------------

    def _foreign_records(self) -> None:
        spool = self._spool
        for directory in (spool.outbox, spool.sent, spool.rejected):
            for entry in self._entries(directory):
                ours = names.sealed(entry.name) is not None
                if not (ours and entry.is_file(follow_symlinks=False)) and (
                    names.unfinished(entry.name) is None
                ):
                    self._foreign.add(Path(entry.path))

    def _entries(self, directory: Path) -> list[os.DirEntry[str]]:
        with self._about(directory), os.scandir(directory) as entries:
            return list(entries)
        return []

    @contextlib.contextmanager
    def _about(self, path: Path) -> Iterator[None]:
        """Confines an error to this file."""
        try:
            yield
        except FileNotFoundError:
            pass  # another process has moved it
        except DamagedTicket:
            self._foreign.add(path)
        except OSError as problem:
            self._failed.add(path, problem.strerror)


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


def _ours(record: Path) -> Ticket:
    """Returns a record. Raises OSError, DamagedTicket when it is not one of ours."""
    return Ticket.read(record, record.stem)


def _made(name: str) -> str | None:
    """Returns the id of a draft or of an upload in building/; None for another name."""
    if is_id(name):
        return name
    found = names.unfinished(name)
    return found[1] if found is not None and found[2] == "upload" else None


def _is_archive(path: Path) -> bool:
    """Returns True for a file that begins with a local file header. Raises OSError."""
    return is_file(path) and read_small(path, len(LOCAL_HEADER)) == LOCAL_HEADER
