"""Keeps a small file of hints across restarts, without which everything still works.

Wanted: a hint survives a restart.
Guaranteed: neither `load` nor `save` raises for the file in its place: one that is missing,
foreign, damaged, too large or not regular counts as none, and is left as it is. Only a file that
`save` wrote is replaced, or an empty one, which a power cut can leave of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

REMEMBERED_BYTES_MAX: Final = 64 * 1024
"""A hundred bytes an upstream, or a calling AE title; a larger file was not written by us."""

MARK: Final = "fastjmix"
"""The key that marks a file of ours; its value is FORM."""

FORM: Final = 1


class Remembered:
    """One JSON object by name, in a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()

    def load(self) -> dict[str, dict[str, Any]]:
        """Returns what was saved last, by name; {} when there is nothing that `save` wrote."""
        found = self._read()
        entries = found.get("entries") if found else None
        if not isinstance(entries, dict):
            return {}
        return {name: each for name, each in entries.items() if isinstance(each, dict)}

    def save(self, entries: Mapping[str, Mapping[str, Any]]) -> bool:
        """Replaces the file. Returns False when it was left as it is."""
        text = orjson.dumps({MARK: FORM, "entries": entries}, option=orjson.OPT_INDENT_2)
        with self._writing:
            return len(text) <= REMEMBERED_BYTES_MAX and self._replace(text)

    def _replace(self, text: bytes) -> bool:
        if self._read() is None:
            return False
        new = self._path.with_name(f".{self._path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with contextlib.suppress(FileNotFoundError):
                new.unlink()  # the remains of a kill
            with open(os.open(new, flags, 0o600), "wb") as file:
                file.write(text)
            new.replace(self._path)  # replaces a file that only `save` writes
        except OSError:
            return False
        return True

    def _read(self) -> dict[str, Any] | None:
        """Returns its object; {} when there is no file; None for a file that is not ours."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags)
        except FileNotFoundError:
            return {}
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            text = os.read(descriptor, REMEMBERED_BYTES_MAX + 1)
            found = orjson.loads(text) if text else {}
        except (OSError, orjson.JSONDecodeError):
            return None
        finally:
            os.close(descriptor)
        ours = not text or (isinstance(found, dict) and found.get(MARK) == FORM)
        return found if ours and len(text) <= REMEMBERED_BYTES_MAX else None
