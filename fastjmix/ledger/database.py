"""The file ledger/ledger.sqlite: where it is, how it is opened, and whether it is whole.

Wanted: one process writes; any number read, also while no process runs, and none waits for another.
Guaranteed: the writer holds `ledger/lock` (flock) while its file is open, so there is one. Readers
open the file read-only. Journal mode WAL, synchronous NORMAL: a kill loses nothing, a power cut
perhaps the last transactions, which the files make good.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fastjmix.errors import FastjmixError
from fastjmix.ledger import schema
from fastjmix.spool.rename import rename_new

DIRECTORY: Final = "ledger"
NAME: Final = "ledger.sqlite"
LOCK: Final = "lock"

BUSY_SECS: Final = 2.0
"""Seconds that a statement waits for a lock: readers never need one for long, the writer is alone.
"""

CHECK_SECS: Final = 5.0
"""Seconds that the check at an opening may take. A larger file is checked in part."""

CHECK_STEPS: Final = 100_000
"""Steps of SQLite's machine between two looks at the clock during a check."""

WAL_BYTES: Final = 64 << 20
"""Bytes of the write-ahead log at which a checkpoint writes its pages to the file, and to which the
log is cut afterwards. UIDs of which each is a UUID change a page each: SQLite's own limit, 4 MB,
would write and sync most pages for every few envelopes (bench/ledger.py --scattered)."""

PAGE_BYTES: Final = 4096
"""Bytes of a page, SQLite's default."""

CACHE_KIB: Final = 16 << 10
"""The writer's page cache: the inner pages of `uids`, and those that new instances change."""

QUESTION_SECS: Final = 20.0
"""Seconds that SQLite may search for one question. A word that leads to millions of rows must not
keep a thread of the api, and the log from being cut."""

QUESTION_STEPS: Final = 10_000
"""Steps of SQLite's machine between two looks at the clock during a question: some 0.1 ms."""

DAMAGED: Final = ("malformed", "not a database", "disk image", "encrypted")
"""Words of SQLite's errors for a file that is damaged (SQLITE_CORRUPT, SQLITE_NOTADB)."""


class LedgerUnavailable(FastjmixError):
    """The ledger cannot be read, or another process writes it."""


class LedgerDamaged(FastjmixError):
    """The file is not a ledger, or damaged: it is to be made anew from the files."""


def path_in(storage: Path) -> Path:
    """Returns the path of the file, below the storage directory."""
    return storage / DIRECTORY / NAME


def is_damage(problem: sqlite3.Error) -> bool:
    """Returns whether an error says that the file itself is damaged."""
    return any(word in str(problem) for word in DAMAGED)


def move_away(storage: Path, now: float) -> Path | None:
    """Gives a damaged file another name beside it, which it returns; deletes the one before it.

    Returns None where there is no file. The caller holds the lock. Raises OSError.
    """
    path = path_in(storage)
    for old in damaged_copies(path):
        old.unlink(missing_ok=True)
    kept = path.with_name(f"{NAME}.damaged-{int(now)}")
    moved = None
    for ending in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            rename_new(Path(f"{path}{ending}"), Path(f"{kept}{ending}"))
            moved = kept
    return moved


def damaged_copies(path: Path) -> list[Path]:
    """Returns the files that `move_away` has made of that at `path`."""
    return list(path.parent.glob(f"{NAME}.damaged-*"))


@contextlib.contextmanager
def write_lock(storage: Path) -> Iterator[None]:
    """Holds the lock of the one writer. Raises LedgerUnavailable when another has it; OSError."""
    directory = storage / DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    # Not open for writing: a quiet node's file system can be remounted read-only.
    flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(directory / LOCK, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LedgerUnavailable(
                f"{directory}: another process writes the ledger",
                "A running node compares it with the files by itself, every few minutes.",
            ) from None
        yield
    finally:
        os.close(descriptor)


def open_for_writing(storage: Path) -> sqlite3.Connection:
    """Opens or makes the file, checks it, and brings it to this version.

    Raises LedgerDamaged, LedgerUnavailable for a file of a later version, sqlite3.Error, OSError.
    """
    path = path_in(storage)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # 0600, whatever the umask
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_SECS, isolation_level=None)
    try:
        _prepare(connection, path)
    except sqlite3.Error as problem:
        connection.close()
        if is_damage(problem):
            raise LedgerDamaged(f"{path}: {problem}") from problem
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if schema.version_of(connection):
        _check(connection, path)
    else:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    schema.migrate(connection)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises LedgerDamaged for a damaged or foreign file, LedgerUnavailable for a later version."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise LedgerDamaged(f"{path}: not a ledger of fastjmix")
    version = schema.version_of(connection)
    if version > schema.VERSION:
        raise LedgerUnavailable(
            f"{path}: written by a later version of fastjmix ({version} > {schema.VERSION})",
            "Move the file away: a new one is made from the envelopes.",
        )
    deadline = time.monotonic() + CHECK_SECS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, CHECK_STEPS)
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as problem:
        if "interrupted" not in str(problem):
            raise
        found = "ok"  # as far as it came in its time
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise LedgerDamaged(f"{path}: {found}")


@contextlib.contextmanager
def reading(storage: Path) -> Iterator[sqlite3.Connection]:
    """Opens the file read-only, for one question. Raises LedgerUnavailable.

    An error of SQLite inside becomes LedgerUnavailable, too, and so does a statement that still
    searches after QUESTION_SECS.
    """
    path = path_in(storage)
    deadline = time.monotonic() + QUESTION_SECS
    connection = None
    try:
        connection = _open_read_only(path)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, QUESTION_STEPS)
        connection.execute("BEGIN")  # all answers are of one moment
        yield connection
    except sqlite3.Error as problem:
        if "interrupted" in str(problem):
            raise LedgerUnavailable(
                f"the ledger has searched for {QUESTION_SECS:g} s, and was stopped",
                "Ask for fewer envelopes: a longer word, or a span of time.",
            ) from problem
        hint = (
            "A running node makes a damaged ledger anew. While none runs: fastjmix ledger rebuild."
        )
        raise LedgerUnavailable(f"{path}: {problem}", hint) from problem
    finally:
        if connection is not None:
            connection.close()


def _open_read_only(path: Path) -> sqlite3.Connection:
    if not path.exists():
        raise LedgerUnavailable(f"{path}: there is no ledger yet", "A node makes it at its start.")
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECS, isolation_level=None
    )
    try:
        version = schema.version_of(connection)
    except BaseException:
        connection.close()
        raise
    if version != schema.VERSION:
        connection.close()
        raise LedgerUnavailable(
            f"{path}: its version is {version}, this program reads {schema.VERSION}",
            "A node of this version brings the file to its version at its start.",
        )
    return connection


def used_bytes(connection: sqlite3.Connection) -> int:
    """Returns the bytes of the pages in use. Raises sqlite3.Error."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)
