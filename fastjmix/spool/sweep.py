"""Finishes, undoes or deletes the half-done work of a process that ended.

Wanted: a successor finds what its predecessor left, and a start what everybody left; neither fails
for anything that lies there.
Guaranteed: only names of ours (names.py), only regular files and our own directories, only what
nothing was promised of; nothing of a process that lives. An error is about one file: it is logged,
and the next sweep tries again. Foreign files stay, and a start names them in one warning.
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
from fastjmix.spool.building import Building
from fastjmix.spool.directories import State
from fastjmix.spool.draft import Leftover
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
    """One look at everything that lies in the spool. It raises only errors that end the process."""

    def __init__(self, spool: Building) -> None:
        self._spool = spool
        self._foreign = _Names()
        self._failed = _Names()

    def at_start(self) -> None:
        """Sweeps while nobody else uses the spool, whoever left the files. Foreign files are
        named."""
        self._unfinished(None)
        self._drafts_without_recipe()
        self._steps()
        self._foreign_records()
        if self._foreign.count:
            hint = "they are not fastjmix's, and are left alone"
            log.get().warning("foreign_files", **self._foreign.shown(), hint=hint)
        self._tell_failures()

    def after(self, owner: str) -> None:
        """Sweeps the files that a former process of this name left, while the others run."""
        self._unfinished(owner)
        if owner in ("uploader", "api"):
            self._steps()
        self._tell_failures()

    def _tell_failures(self) -> None:
        if self._failed.count:
            log.get().error("leftovers_unreadable", **self._failed.shown())

    # -- files of no worth ---------------------------------------------------------------------

    def _unfinished(self, owner: str | None) -> None:
        """Files that were being made, by `owner` or (None) by anybody."""
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
                elif self._spool.leftover(entry.name) is None:
                    self._without_recipe(path)

    def _without_recipe(self, directory: Path) -> None:
        """Keeps a draft that may hold acknowledged instances for a person; deletes one that holds
        nothing.

        Ours has a journal from its first moment on, or an archive that begins as ours do.
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
            self._spool.reject_draft(leftover, why)
            kept = f"rejected/{leftover.id}.zip"
            log.get().error("envelope_damaged", envelope=leftover.id, why=why, kept=kept)
        else:
            remove_draft(directory)

    def _has_recipe(self, directory: Path) -> bool:
        """Raises OSError: it cannot be read now, and may be later."""
        try:
            return Recipe.read(directory) is not None
        except FileNotFoundError:
            return False

    # -- steps ---------------------------------------------------------------------------------

    def _steps(self) -> None:
        """Ends steps whose archive did not follow its record: the archive goes on, or the record
        goes.

        A ticket of a live packer or API may stand alone for a moment: its archive is then in
        building/. The sweep looks there after outbox/, and in outbox/ once more.
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
        """Ends a rename that takes two steps (renaming.py), and whose second was not taken."""
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
            # Whatever has an archive's name stands in its place.
            if ours is not None and (ours[1] == "zip" or entry.is_file(follow_symlinks=False)):
                found[ours[1]].add(ours[0])
        return found

    # -- what is not ours ----------------------------------------------------------------------

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
        """Confines an error of this file to this file."""
        try:
            yield
        except FileNotFoundError:
            pass  # it has gone on meanwhile
        except DamagedTicket:
            self._foreign.add(path)
        except OSError as problem:
            self._failed.add(path, problem.strerror)


class _Names:
    """The first of many paths, and how many there are."""

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
    """Raises OSError, DamagedTicket for what is no record of ours."""
    return Ticket.read(record, record.stem)


def _made(name: str) -> str | None:
    """Returns the id of a draft in building/, or of an upload on its way; None for another name."""
    if is_id(name):
        return name
    found = names.unfinished(name)
    return found[1] if found is not None and found[2] == "upload" else None


def _is_archive(path: Path) -> bool:
    """True for a file that begins as our archives do. Raises OSError."""
    return is_file(path) and read_small(path, len(LOCAL_HEADER)) == LOCAL_HEADER
