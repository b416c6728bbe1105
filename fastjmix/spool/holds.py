"""Keeps which envelopes in outbox/ a person has put on hold: outbox/<id>.hold.

Guaranteed: a hold is durable when `put` returns, and gone for good when `lift` does. A hold without
its archive is deleted at the next start (sweep.py). A file that is damaged is a hold all the same:
an envelope is not sent by mistake.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from fastjmix.spool import names
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import sync_directory, write_new
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import moment

HOLD: Final = ".hold"
"""Ending of the file beside an archive in outbox/ that keeps it from its upstream."""

BYTES_MAX: Final = 1 << 16
"""Bytes read of a hold: a time, a name and a sentence."""

TEXT_MAX: Final = 1000
"""Characters of a reason, and of a name, that are kept."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A hold: since when (Unix seconds), by whom, and why. The texts are for people, "" where they
    are not known."""

    since: float
    by: str
    why: str


class Holds:
    """The holds of one spool, read from the directory at each call."""

    def __init__(self, spool: Directories) -> None:
        self._spool = spool

    def put(self, envelope_id: str, by: str, why: str) -> None:
        """Puts an envelope on hold. Raises FileExistsError when it is on hold, OSError."""
        hold = Hold(time.time(), by[:TEXT_MAX], why[:TEXT_MAX])
        text = orjson.dumps(asdict(hold), option=orjson.OPT_APPEND_NEWLINE)
        write_new(self._path(envelope_id), text, self._spool.owner, durable=True)

    def lift(self, envelope_id: str) -> None:
        """Ends the hold of an envelope. Raises FileNotFoundError when there is none, OSError."""
        self._path(envelope_id).unlink()
        sync_directory(self._spool.outbox)

    def get(self, envelope_id: str) -> Hold | None:
        """Returns the hold of an envelope; None when there is none, or a file of another kind.

        The time of a hold that cannot be read is that of its file. Raises OSError.
        """
        path = self._path(envelope_id)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        try:
            told = orjson.loads(read_small(path, BYTES_MAX))
        except FileNotFoundError:
            return None  # released just now
        except (OSError, orjson.JSONDecodeError):
            told = None
        if not isinstance(told, dict):
            told = {}
        since = moment(told.get("since"))
        by, why = str(told.get("by") or ""), str(told.get("why") or "")
        return Hold(found.st_mtime if since is None else since, by, why)

    def among(self, ids: Iterable[str]) -> set[str]:
        """Returns those of these envelopes that are on hold."""
        return {one for one in ids if os.path.lexists(self._path(one))}

    def ids(self) -> set[str]:
        """Returns the ids on hold. Raises OSError."""
        with os.scandir(self._spool.outbox) as entries:
            found = (names.sealed(entry.name) for entry in entries)
            return {one[0] for one in found if one is not None and one[1] == "hold"}

    def remove_without_archive(self) -> None:
        """Deletes holds whose envelope has left. Raises OSError."""
        for envelope_id in self.ids():
            if not os.path.lexists(self._spool.path("outbox", envelope_id)):
                with contextlib.suppress(FileNotFoundError):
                    self._path(envelope_id).unlink()

    def _path(self, envelope_id: str) -> Path:
        return self._spool.outbox / f"{envelope_id}{HOLD}"
