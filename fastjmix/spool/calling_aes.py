"""Remembers the calling AE titles that send a study in several associations, image by image.

Wanted: a modality that sends each image when it is taken (CR, US, dental) has its studies in one
envelope each, whichever packer they reach, and after a restart, too.
Guaranteed: titles are kept in RETURNING_FILE, which is replaced as a whole, under a lock that the
packers share. A file that is missing, damaged or not writable costs those titles, and no instance.
A title that has not come back for FORGET_SECS is forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fastjmix import log
from fastjmix.spool import Remembered, Spool

RETURNING_FILE: Final = "calling_aes.json"
"""Name of the file in the storage directory."""

TITLES_MAX: Final = 256
"""Titles that are remembered; peers choose them. The one whose last return is the oldest is
forgotten first. 64 KB hold this many, however they are escaped."""

FORGET_SECS: Final = 30 * 86400.0
"""A month: a device in use comes back sooner. Then the envelopes of a title that came back once by
chance are sealed without a delay again."""

FRESH_SECS: Final = 86400.0
"""A return is written only when the last written one is a day old, and not for each image."""


LOCK_TRIES: Final = 50
"""Attempts to take the lock. Another packer holds it while it writes a few KB; a process of another
program is not waited for."""
LOCK_PAUSE_SECS: Final = 0.002
"""Between two of them: 100 ms in all, once for each new title."""


class CallingAEs:
    """The titles that one process knows. Times are Unix seconds, which a restart does not reset."""

    def __init__(self, spool: Spool) -> None:
        self._root = spool.root
        self._path = spool.root / RETURNING_FILE
        self._file = Remembered(self._path)
        self._seen: tuple[int, int] | None = None
        self._returned: dict[str, float] = {}
        self._saved = True

    def __len__(self) -> int:
        """Returns the number of titles that are known to come back."""
        self._refresh()
        return len(self._returned)

    def returns(self, title: str) -> bool:
        """Returns whether this calling AE title is known to come back. Costs a stat(2)."""
        self._refresh()
        return title in self._returned

    def learn(self, title: str) -> bool:
        """Notes that a title came back. Returns True when that was not known."""
        now = time.time()
        self._refresh()
        last = self._returned.get(title)
        if last is None or not self._saved or not 0 <= now - last <= FRESH_SECS:
            self._write(title, now)
        return last is None

    def _refresh(self) -> None:
        """Reads the file again if it was replaced."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns)
        except OSError:
            return  # the titles that are known already stay
        if seen != self._seen:
            self._seen = seen
            self._returned = _usable(self._file.load())

    def _write(self, title: str, now: float) -> None:
        self._returned = _youngest({**self._returned, title: now})
        self._saved = False
        with contextlib.suppress(OSError), _locked(self._root):
            self._returned = _youngest({**_usable(self._file.load()), **self._returned})
            entries = {title: {"returned": at} for title, at in self._returned.items()}
            self._saved = self._file.save(entries)
        if not self._saved:
            log.get().warning("calling_aes_not_kept", file=RETURNING_FILE)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Holds the packers' lock, a flock(2) of the directory itself. Raises OSError."""
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for tried in range(LOCK_TRIES):
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if tried == LOCK_TRIES - 1:
                    raise
                time.sleep(LOCK_PAUSE_SECS)
        yield
    finally:
        os.close(directory)


def _usable(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    now = time.time()
    found = {title: each.get("returned") for title, each in entries.items()}
    return _youngest(
        {
            title: float(at)
            for title, at in found.items()
            if isinstance(at, int | float) and now - at < FORGET_SECS
        }
    )


def _youngest(returned: Mapping[str, float]) -> dict[str, float]:
    """Returns the TITLES_MAX titles that came back last."""
    last = sorted(returned.items(), key=lambda one: one[1], reverse=True)
    return dict(last[:TITLES_MAX])
