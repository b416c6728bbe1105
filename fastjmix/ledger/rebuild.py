"""Makes the ledger from the files, while no node runs: `fastjmix ledger rebuild`."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastjmix.errors import reason
from fastjmix.ledger import database, privacy
from fastjmix.ledger.database import LedgerDamaged, LedgerUnavailable
from fastjmix.ledger.reconcile import reconcile
from fastjmix.ledger.writer import Writer
from fastjmix.spool.directories import SEALED_STATES

STATES: Final = ("building", *SEALED_STATES)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result: how many envelopes were read from the disk, and the damaged file's new name; None
    where there was none, or where it may not be kept (privacy.py)."""

    envelopes: int
    damaged: Path | None


def rebuild(
    storage: Path, *, patient_data: bool, progress: Callable[[int], None] = lambda _: None
) -> Rebuilt:
    """Reads the files of every envelope on the disk into the ledger.

    Rows of envelopes that are gone from the disk stay, unless the file is damaged: then it is moved
    away. `progress` gets the number of envelopes that are left. Raises LedgerUnavailable, also when
    a node runs.
    """
    if missing := [name for name in STATES if not (storage / name).is_dir()]:
        hint = "A storage directory has these four: see [storage.options] path."
        raise LedgerUnavailable(f"{storage}: has no {missing[0]}/", hint)
    damaged = None
    try:
        with database.write_lock(storage):
            try:
                connection = database.open_for_writing(storage)
            except LedgerDamaged:
                damaged = database.move_away(storage, time.time())
                connection = database.open_for_writing(storage)
            try:
                read = _read(connection, storage, patient_data, progress)
                kept = damaged if damaged is not None and damaged.exists() else None
                return Rebuilt(read, kept)
            finally:
                connection.close()
    except OSError as problem:
        raise LedgerUnavailable(f"{storage}: {reason(problem)}") from problem
    except sqlite3.Error as problem:
        hint = "Move the file away; a new one is made." if database.is_damage(problem) else ""
        raise LedgerUnavailable(f"{database.path_in(storage)}: {problem}", hint) from problem


def _read(
    connection: sqlite3.Connection,
    storage: Path,
    patient_data: bool,
    progress: Callable[[int], None],
) -> int:
    privacy.begin(connection, patient_data=patient_data)
    writer = Writer(connection, storage, patient_data=patient_data)
    for left in reconcile(writer, thorough=True):
        progress(left)
    asked = "SELECT count(*) FROM envelopes WHERE state <> 'gone'"
    return int(connection.execute(asked).fetchone()[0])
