"""Moves an archive and its record from one state to the next, and replaces no file.

Wanted: no archive is lost, whatever file is in its way and whenever the process is killed; and a
step that is repeated ends in the same state.
Guaranteed: the record is durable before its archive moves. A record of ours without an archive
beside it is the remains of an earlier attempt: it is kept when it says the same, and else written
anew. Any other file under either name means that the name is taken. An archive with the same bytes
needs no second copy. Another archive goes to rejected/, with an error in the log, under an id that
follows from its own; so a step that is repeated finds the file with which it began.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.spool import names
from fastjmix.spool.directories import Directories, State
from fastjmix.spool.files import rename_synced, sync_directory, write_new
from fastjmix.spool.reading import is_file, open_regular, same_bytes
from fastjmix.spool.rename import same_file
from fastjmix.spool.ticket import Ticket

PLACES_MAX: Final = 100
"""Other ids that are tried for an archive whose name is taken. After this many copies of one
envelope, which only people can put there, the next is left where it is."""


def publish(spool: Directories, archive: Path, ticket: Ticket, *, durable: bool) -> None:
    """Moves S1 → S2, the ticket first, so that an archive in outbox/ always has one.

    Raises FileExistsError when another file has one of the names; OSError.
    """
    record = spool.outbox / f"{ticket.id}.json"
    _write_record(spool, record, ticket, archive, durable=durable)
    _follow(archive, spool.path("outbox", ticket.id), record, durable=durable)


def settle(
    spool: Directories, archive: Path, directory: Path, ticket: Ticket, *, durable: bool
) -> None:
    """Makes an archive in another form, written and synced, the one of its draft that counts.

    Raises OSError.
    """
    # The ticket of an earlier attempt, without its archive
    (directory / names.TICKET).unlink(missing_ok=True)
    write_new(directory / names.TICKET, ticket.dump(), spool.owner, durable=durable)
    rename_synced(archive, directory / names.SEALED, durable=durable)
    reach("encrypt.settled")


def move_settled(spool: Directories, directory: Path, ticket: Ticket, *, durable: bool) -> None:
    """Moves S1 → S2 for an archive that `settle` put there. Raises OSError.

    First deletes the archive that was built, durably: else a crash would lead to a second seal.
    """
    (directory / names.ARCHIVE).unlink(missing_ok=True)
    if durable:
        sync_directory(directory)
    publish(spool, directory / names.SEALED, ticket, durable=durable)
    reach("seal.published")


def move(spool: Directories, state: State, ticket: Ticket) -> None:
    """Moves S2 → `state`, with `ticket` beside it. Raises OSError."""
    put(spool, spool.path("outbox", ticket.id), state, ticket)
    (spool.outbox / f"{ticket.id}.json").unlink(missing_ok=True)


def put(spool: Directories, source: Path, state: State, ticket: Ticket) -> None:
    """Moves an archive to `state`, or to rejected/ when its name is taken there. Raises OSError.

    Raises FileNotFoundError before anything is written when there is no such archive.
    """
    source.lstat()
    for where, named in _targets(state, ticket):
        record, target = spool.root / where / f"{named.id}.json", spool.path(where, named.id)
        target.parent.mkdir(mode=0o700, exist_ok=True)  # it may have been deleted since the start
        try:
            _write_record(spool, record, named, source, durable=spool.durable)
            reach("move.recorded")
            _follow(source, target, record, durable=spool.durable)
        except FileExistsError:
            if _is_kept(spool, source, where, named.id):
                source.unlink()
                log.get().warning("copy_removed", envelope=ticket.id, kept=f"{where}/{target.name}")
                return
            continue
        reach("move.moved")
        if named is not ticket:
            log.get().error(
                "name_taken",
                envelope=ticket.id,
                taken=f"{state}/{ticket.id}",
                kept=f"{where}/{target.name}",
                hint="two archives have this id: a person has to look at both",
            )
        return
    raise FileExistsError(errno.EEXIST, "every name for it is taken", str(source))


def _targets(state: State, ticket: Ticket) -> Iterator[tuple[State, Ticket]]:
    """Yields the places where an archive may go: its own, and other ids in rejected/."""
    yield state, ticket
    refusal = dict(ticket.refusal or {})
    why = refusal.get("why") or refusal.get("reason") or ("delivered" if ticket.receipt else "")
    refusal["why"] = f"{state}/{ticket.id} was there already, and is not this archive; {why}"
    refusal["envelope"] = ticket.id
    for number in range(1, PLACES_MAX + 1):
        other = str(uuid.uuid5(uuid.UUID(ticket.id), str(number)))
        yield "rejected", replace(ticket, id=other, refusal=refusal)


def _write_record(
    spool: Directories, path: Path, ticket: Ticket, source: Path, *, durable: bool
) -> None:
    """Writes the record that `source` is to follow. Raises FileExistsError: a name is taken."""
    archive = path.with_suffix(".zip")
    if os.path.lexists(archive) and not same_file(archive, source):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(archive))
    for attempt in (1, 2):
        try:
            write_new(path, ticket.dump(), spool.owner, durable=durable)
            return
        except FileExistsError:
            there = _record(path)
            if there is None or attempt == 2:
                raise
            if there.about(ticket):
                break
            path.unlink()  # of an earlier attempt, whose archive did not follow
    if durable:
        sync_directory(path.parent)  # the earlier attempt may have failed there


def _follow(source: Path, target: Path, record: Path, *, durable: bool) -> None:
    try:
        rename_synced(source, target, durable=durable)
    except FileExistsError:
        record.unlink(missing_ok=True)  # else it would look like the other file's record
        raise


def _is_kept(spool: Directories, source: Path, state: State, envelope_id: str) -> bool:
    """Returns True when a state holds the same bytes under this id, durably, with a record."""
    target = spool.path(state, envelope_id)
    if _record(target.with_suffix(".json")) is None or not is_file(target):
        return False
    if not same_bytes(source, target):
        return False
    if spool.durable:  # a person may have copied it here
        descriptor = open_regular(target)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(target.parent)
    return True


def _record(path: Path) -> Ticket | None:
    """Returns a record; None for one that is not ours, or cannot be read."""
    try:
        return Ticket.read(path, path.stem)
    except (OSError, DamagedTicket):
        return None
