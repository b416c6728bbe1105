"""Keeps which envelopes in outbox/ a person has put on hold: outbox/<id>.hold.

An envelope for several upstreams can be on hold for the n-th of them only: outbox/<id>.<n>.hold.

Guaranteed: a hold is durable when `put` returns, and gone for good when `lift` does. A hold without
its archive is deleted at the next start (sweep.py). A file that is damaged is a hold all the same:
an envelope is not sent by mistake.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

from fastjmix.spool import names
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import sync_directory, write_new
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import Ticket, moment

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

    def put(self, envelope_id: str, by: str, why: str, number: int | None = None) -> None:
        """Puts an envelope on hold, or (`number`) for one upstream of several.

        Raises FileExistsError when it is on hold, OSError.
        """
        hold = Hold(time.time(), by[:TEXT_MAX], why[:TEXT_MAX])
        text = orjson.dumps(asdict(hold), option=orjson.OPT_APPEND_NEWLINE)
        write_new(self._path(envelope_id, number), text, self._spool.owner, durable=True)

    def lift(self, envelope_id: str, number: int | None = None) -> None:
        """Ends the hold of an envelope, or (`number`) that for one upstream of several. Raises
        FileNotFoundError when there is none, OSError."""
        self._path(envelope_id, number).unlink()
        sync_directory(self._spool.outbox)

    def is_held(self, envelope_id: str) -> bool:
        """Returns whether an envelope is on hold for all of its upstreams."""
        return os.path.lexists(self._path(envelope_id))

    def of(self, ticket: Ticket) -> frozenset[str]:
        """Returns the upstreams for which an envelope is on hold."""
        if self.is_held(ticket.id):
            return frozenset(ticket.upstreams)
        if len(ticket.upstreams) == 1:
            return frozenset()
        numbered = enumerate(ticket.upstreams)
        return frozenset(name for n, name in numbered if os.path.lexists(self._path(ticket.id, n)))

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

    def ids(self) -> set[str]:
        """Returns the ids on hold. Raises OSError."""
        with os.scandir(self._spool.outbox) as entries:
            found = (names.sealed(entry.name) for entry in entries)
            return {one[0] for one in found if one is not None and one[1] == "hold"}

    def any_ids(self) -> set[str]:
        """Returns the ids on hold, for one of several upstreams too. Raises OSError."""
        return {envelope_id for envelope_id, _ in self._files()}

    def remove_without_archive(self) -> None:
        """Deletes holds whose envelope has left. Raises OSError."""
        for envelope_id, path in self._files():
            if not os.path.lexists(self._spool.path("outbox", envelope_id)):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def _files(self) -> list[tuple[str, Path]]:
        """Returns the ids and the paths of all holds. Raises OSError."""
        found = []
        with os.scandir(self._spool.outbox) as entries:
            for entry in entries:
                ours = names.sealed(entry.name) or names.part(entry.name)
                if ours is not None and ours[-1] == "hold":
                    found.append((ours[0], Path(entry.path)))
        return found

    def _path(self, envelope_id: str, number: int | None = None) -> Path:
        part = "" if number is None else f".{number}"
        return self._spool.outbox / f"{envelope_id}{part}{HOLD}"
