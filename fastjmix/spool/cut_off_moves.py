"""Ends moves between the states of an envelope that a process began and did not end.

Guaranteed: an archive follows its record, or the record is deleted; nothing is decided from a name
alone. A ticket of a running process is left alone.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fastjmix.jmix.ids import is_id
from fastjmix.spool import names, provenance
from fastjmix.spool.directories import Directories, State
from fastjmix.spool.files import rename_synced
from fastjmix.spool.findings import Findings
from fastjmix.spool.reading import is_file
from fastjmix.spool.rename import same_file
from fastjmix.spool.ticket import Ticket


class CutOffMoves:
    """The moves that one sweep ends."""

    def __init__(self, spool: Directories, findings: Findings) -> None:
        self._spool = spool
        self._findings = findings

    def end(self) -> None:
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
                with self._findings.about(self._spool.path("outbox", envelope_id)):
                    self._end_link(state, envelope_id)
            for envelope_id in there["json"] - there["zip"]:
                record = self._spool.root / state / f"{envelope_id}.json"
                with self._findings.about(record):
                    self._finish_move(state, record)
        there = self._sealed(self._spool.outbox)
        if alone := there["json"] - there["zip"]:
            made = {_made(entry.name) for entry in self._findings.entries(self._spool.building)}
            for envelope_id in alone.difference(filter(None, made)):
                record = self._spool.outbox / f"{envelope_id}.json"
                with self._findings.about(record):
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
            if ticket.requeued_after(there):
                record.unlink()
            elif ticket.unended() == replace(there.unended(), id=envelope_id):
                rename_synced(waiting, record.with_suffix(".zip"), durable=self._spool.durable)
        elif state == "sent" and there.receipt is not None:
            provenance.remove(self._spool, there.id)
            record.unlink()  # retention had begun with it

    def _sealed(self, directory: Path) -> dict[str, set[str]]:
        """Ids of archives ("zip") and of records ("json") in a directory."""
        found: dict[str, set[str]] = {"zip": set(), "json": set(), "hold": set()}
        for entry in self._findings.entries(directory):
            ours = names.sealed(entry.name)
            # Any file with an archive's name occupies its place.
            if ours is not None and (ours[1] == "zip" or entry.is_file(follow_symlinks=False)):
                found[ours[1]].add(ours[0])
        return found


def _ours(record: Path) -> Ticket:
    """Returns a record. Raises OSError, DamagedTicket when it is not one of ours."""
    return Ticket.read(record, record.stem)


def _made(name: str) -> str | None:
    """Returns the id of a draft or of an upload in building/; None for another name."""
    if is_id(name):
        return name
    found = names.unfinished(name)
    return found[1] if found is not None and found[2] == "upload" else None
