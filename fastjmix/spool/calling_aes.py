"""Keeps which calling AE titles come back for a study: they send each image in an association.

Wanted: a modality that sends each image when it is taken (CR, US, dental) has its studies in one
envelope each, whichever packer they meet, and after a restart, too.
Guaranteed: a title is remembered in RETURNING_FILE, which is replaced as a whole, under a lock that
the packers share; a file that is missing, damaged or cannot be written costs what was known, and no
instance. A title that has not come back for FORGET_SECS is forgotten.
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
"""Titles that are remembered; peers choose them. The one that has not come back for longest is
forgotten. 64 KB hold so many, however they are escaped."""

FORGET_SECS: Final = 30 * 86400.0
"""A month: a device in use comes back sooner, and a title that came back once by chance is free of
its waiting then."""

FRESH_SECS: Final = 86400.0
"""A return is written when the last one that was written is a day old: the file is not written for
each image."""


LOCK_TRIES: Final = 50
"""Another packer holds the lock while it writes a few KB. Anybody else is not waited for."""
LOCK_PAUSE_SECS: Final = 0.002
"""Between two of them: 100 ms in all, once for each title that is learned."""


class CallingAEs:
    """The titles as one process knows them. Times are Unix seconds: they outlive the machine's."""

    def __init__(self, spool: Spool) -> None:
        self._root = spool.root
        self._path = spool.root / RETURNING_FILE
        self._file = Remembered(self._path)
        self._seen: tuple[int, int] | None = None
        self._returned: dict[str, float] = {}
        self._saved = True

    def __len__(self) -> int:
        """How many titles are known to come back."""
        self._refresh()
        return len(self._returned)

    def returns(self, title: str) -> bool:
        """Tells whether this calling AE title is known to come back. Costs a stat(2)."""
        self._refresh()
        return title in self._returned

    def learn(self, title: str) -> bool:
        """Notes that it came back. True: nobody knew it."""
        now = time.time()
        self._refresh()
        last = self._returned.get(title)
        if last is None or not self._saved or not 0 <= now - last <= FRESH_SECS:
            self._write(title, now)
        return last is None

    def _refresh(self) -> None:
        """Reads the file again if another process, or somebody, replaced it."""
        try:
            found = self._path.stat()
            seen = (found.st_ino, found.st_mtime_ns)
        except OSError:
            return  # what is known here is as good as none
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
    """Holds the packers' lock, which is the directory itself. Raises OSError."""
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
    """Returns those that came back last, TITLES_MAX of them."""
    last = sorted(returned.items(), key=lambda one: one[1], reverse=True)
    return dict(last[:TITLES_MAX])
