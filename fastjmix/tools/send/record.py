"""The instances that a peer has accepted, in a file: `fastjmix send --resume FILE` sends the rest.

Guaranteed: an instance is left out only if this peer accepted this file, unchanged since: its path,
size, time and SOP Instance UID. A line is written after the peer's answer, so that it never names
an instance that was not accepted. An incomplete last line is ignored; a file that is not of this
kind is left as it is.
Still wrong: lines are not synced: after a power cut some instances may be sent again.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, BinaryIO, Final

from fastjmix.errors import UsageError
from fastjmix.tools.send.files import Instance
from fastjmix.tools.send.peer import Peer
from fastjmix.tools.send.walk import as_text

HEADER: Final = {"fastjmix_send_record": 1}

LINE_MAX: Final = 65_536
"""Bytes of a line: several times the longest path (PATH_MAX is 4096) in JSON."""

_FIELDS: Final = ("peer", "file", "bytes", "mtime_ns", "sop_instance_uid")


class Record:
    """A record of one or more peers, open until `close`. `write` False: it is only read, and need
    not exist. The constructor raises UsageError for a file that is no record, or in use."""

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self._path, self._write = path, write
        self._accepted: set[tuple[object, ...]] = set()
        self._file: BinaryIO | None = None
        self.problem = ""
        """The reason why nothing more is written."""
        try:
            if write or path.exists():
                self._file = path.open("a+b" if write else "rb", buffering=0)
                self._load(self._file)
        except OSError as problem:
            self.close()
            raise UsageError(f"{path}: {problem.strerror or problem}") from None
        except UsageError:
            self.close()
            raise

    def has(self, peer: Peer, instance: Instance) -> bool:
        """Returns whether the peer has accepted this file as it is now."""
        if not self._accepted:
            return False
        try:
            return tuple(_line(peer, instance).values()) in self._accepted
        except OSError:
            return False

    def add(self, peer: Peer, instance: Instance) -> None:
        """Notes that the peer has accepted the instance. Raises nothing: see `problem`."""
        if self._file is None or self.problem:
            return
        try:
            line = _line(peer, instance)
            self._put(self._file, line)
            self._accepted.add(tuple(line.values()))
        except OSError as problem:
            self.problem = f"{self._path}: {problem.strerror or problem}"

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _put(self, file: BinaryIO, line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        if file.write(data) != len(data):
            raise OSError(0, "no room for a whole line")

    def _load(self, file: BinaryIO) -> None:
        if self._write:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self._path}: another send uses it") from None
        file.seek(0)
        whole = 0
        with os.fdopen(os.dup(file.fileno()), "rb") as reading:
            while line := reading.readline(LINE_MAX):
                if not line.endswith(b"\n") and len(line) < LINE_MAX and whole:
                    break  # incomplete: the run ended while it was written
                self._take(line, is_first=not whole)
                whole += len(line)
        if self._write and not whole:
            self._put(file, HEADER)
        elif self._write:
            os.ftruncate(file.fileno(), whole)

    def _take(self, line: bytes, *, is_first: bool) -> None:
        try:
            found = json.loads(line)
            if is_first:
                if found != HEADER:
                    raise ValueError
            else:
                self._accepted.add(tuple(found[field] for field in _FIELDS))
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f"{self._path}: is not a record of what was sent; it is left as it is"
            raise UsageError(message, "Name a file that does not exist yet.") from None


def _line(peer: Peer, instance: Instance) -> dict[str, Any]:
    """Returns a line of the record. Raises OSError when the file is gone."""
    values = (
        str(peer),
        as_text(instance.path.absolute()),
        instance.size,
        instance.path.stat().st_mtime_ns,
        instance.sop_instance,
    )
    return dict(zip(_FIELDS, values, strict=True))
