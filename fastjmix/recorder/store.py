"""The open ledger of the process that writes it.

Guaranteed: a damaged file is moved away and made anew; a file that somebody deleted or replaced is
noticed with the next batch. While nothing happens the file is closed (`rest`): SQLite's memory goes
back, and the file system of a quiet node can be remounted. The lock is kept. Each failure is raised
as StoreFailed, with what a person can act on.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastjmix import log
from fastjmix.config import LedgerSettings
from fastjmix.errors import FastjmixError
from fastjmix.ledger import database, privacy
from fastjmix.ledger.database import LedgerDamaged
from fastjmix.ledger.kinds import Event
from fastjmix.ledger.writer import Writer
from fastjmix.spool.root import Root


class StoreFailed(Exception):
    """The ledger cannot be written now. The text says why."""


class Store:
    """The ledger's file, opened when it is needed, with the lock of its one writer.

    `opened` counts how often it was: after each, it may be another file.
    """

    def __init__(self, root: Root, settings: LedgerSettings) -> None:
        self._root = root
        self._storage = root.path
        self._settings = settings
        self._lock = contextlib.ExitStack()
        self._locked = False
        self._file = contextlib.ExitStack()
        self._writer: Writer | None = None
        self.opened = 0
        self._identity: tuple[int, int] | None = None

    def adopt(self, settings: LedgerSettings) -> None:
        """Takes over other settings. Where patients' data is to be kept no longer, the file is
        opened again, which deletes it."""
        if settings.patient_data != self._settings.patient_data:
            self.rest()
        self._settings = settings

    def close(self) -> None:
        """Closes the file, and gives the lock back."""
        self.rest()
        self._identity = None
        self._locked = False
        self._lock.close()

    def rest(self) -> None:
        """Closes the file until it is needed again."""
        self._writer = None
        with contextlib.suppress(sqlite3.Error):  # of a disk that fails: the file is as it is
            self._file.close()

    @property
    def is_open(self) -> bool:
        """True while the file is open."""
        return self._writer is not None

    @contextlib.contextmanager
    def writing(self) -> Iterator[Writer]:
        """Yields the writer of the open file. Raises StoreFailed; the file is then closed."""
        try:
            if self._locked and self._identity != _identity(self._storage):
                self.close()
            yield self._writer if self._writer is not None else self._open()
        except LedgerDamaged as problem:
            self._replace(problem.message)
        except sqlite3.Error as problem:
            if database.is_damage(problem):
                self._replace(str(problem))
            self.close()
            raise StoreFailed(f"the ledger's file: {problem}") from problem
        except OSError as problem:
            self.close()
            raise StoreFailed(problem.strerror or str(problem)) from problem
        except FastjmixError as problem:
            self.close()
            raise StoreFailed(problem.message) from problem

    def apply(self, events: Sequence[Event]) -> None:
        """Writes a batch. Raises StoreFailed."""
        with self.writing() as writer:
            writer.apply(events)

    @property
    def size(self) -> int:
        """Bytes of the file and of its log; 0 where there is none."""
        path = database.path_in(self._storage)
        found = 0
        for ending in ("", "-wal"):
            with contextlib.suppress(OSError):
                found += Path(f"{path}{ending}").stat().st_size
        return found

    def _open(self) -> Writer:
        self._root.require_file_system()
        if not self._locked:
            self._lock.enter_context(database.write_lock(self._storage))
            self._locked = True
        try:
            connection = database.open_for_writing(self._storage)
        except LedgerDamaged as problem:
            self._move_away(problem.message)
            connection = database.open_for_writing(self._storage)
        self._file.callback(connection.close)
        found = _identity(self._storage)
        self.opened += found != self._identity  # else it has rested
        self._identity = found
        patient_data = self._settings.patient_data
        privacy.begin(connection, patient_data=patient_data)
        self._writer = Writer(connection, self._storage, patient_data=patient_data)
        return self._writer

    def _replace(self, why: str) -> None:
        """Moves the file away that was found damaged at work. Raises StoreFailed always: what was
        to be written is written again."""
        if self._writer is not None:
            self._writer.connection.close()
        with contextlib.suppress(OSError):
            self._move_away(why)
        self.close()
        raise StoreFailed(f"the ledger's file was damaged: {why}")

    def _move_away(self, why: str) -> None:
        kept = database.move_away(self._storage, time.time())
        hint = "a new one is made from the envelopes on the disk; what was gone from it is lost"
        log.get().error("ledger_damaged", why=why, kept=str(kept), hint=hint)


def _identity(storage: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(database.path_in(storage))  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino
