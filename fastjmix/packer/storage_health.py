"""Stops the intake when storage fails twice, or at a start, until a probe says that it is well.

Wanted: a broken disk is told to the modalities at the door, not instance by instance.
Guaranteed: the first failure costs what it touched; a second one within STORM_SECS, the first that
says that a directory of the storage is gone (StorageGone), or a start on storage that has no room
or fails, stops the intake: receivers reject associations (transient), /readyz says why. While it is
stopped, directories that are gone are made again where the storage directory itself is there
(Spool.reclaim), and a small file goes each PROBE_SECS all the way that a promise goes; when one
arrives, the intake resumes. The log says each time what is in the way when that has changed.
Nothing of this stops the uploader. A draft that cannot be recovered is no failure of the storage,
unless the small file fails, too.
Still wrong: a disk that takes small files and fails large ones is found out by the instances.
"""

from __future__ import annotations

import math
import time
from typing import Final

from fastjmix import log
from fastjmix.errors import (
    LimitReached,
    NameTaken,
    SpoolError,
    StorageFailed,
    StorageFull,
    StorageGone,
    reason,
    storage_error,
)
from fastjmix.ipc.metrics import Stats
from fastjmix.spool import Spool

STORM_SECS: Final = 60.0
"""Two failures on two files within a minute are not an accident of one file."""

PROBE_SECS: Final = 1.0
"""How often storage that failed is tried: an answer within a second of its recovery."""

SCARCE: Final = (StorageFull, LimitReached, NameTaken)
"""Something has run out for now, or another file has the name that one of ours is to get: the
storage itself works."""

PUT_BACK: Final = (
    "Make the directory of [storage.options] path again, empty, with its owner and mode, or mount"
    " its disk again: reception then goes on by itself. After a change of disks restart fastjmix."
)


class Health:
    """What one packer knows of the storage; `stats` shows it to the other processes."""

    def __init__(self, spool: Spool, stats: Stats) -> None:
        self._spool = spool
        self._stats = stats
        self._failed_at = -math.inf
        self._in_the_way = ""
        self.due = math.inf
        """When the next probe is due, in monotonic seconds."""

    @property
    def stopped(self) -> bool:
        """True while nothing is to be taken."""
        return self.due < math.inf

    def failed(self, problem: OSError) -> None:
        """Something that was to be on the disk is not."""
        now = time.monotonic()
        repeated, self._failed_at = now - self._failed_at < STORM_SECS, now
        self._stats.add("storage_failures_total")
        failure = storage_error(problem)
        if (repeated or isinstance(failure, StorageGone)) and not self.stopped:
            self._stop(failure.message)

    def blame(self, problem: Exception) -> None:
        """Takes a failure of anything that writes. A resource that has run out comes back, and so
        may a key that signs envelopes; any other error of the system says that the storage is
        unwell."""
        if isinstance(problem, OSError) and isinstance(storage_error(problem), StorageFailed):
            self.failed(problem)

    def doubted(self, problem: OSError) -> None:
        """Tries the storage at once, since the remains of an envelope could not be recovered. If
        the storage is well, the fault is the draft's: one draft that nobody can read is no
        reason to take nothing."""
        if self.stopped or isinstance(storage_error(problem), SCARCE):
            return
        try:
            self._spool.reclaim()
            self._spool.probe()
        except (OSError, SpoolError) as unwell:
            if isinstance(unwell, SpoolError) or not isinstance(storage_error(unwell), SCARCE):
                self._stats.add("storage_failures_total")
                self._stop(_told(unwell)[0])

    def _stop(self, why: str) -> None:
        self._stats.set("intake_stopped", 1)
        self.due = time.monotonic() + PROBE_SECS
        self._in_the_way = why
        log.get().error("intake_stopped", why=why)

    def reclaim(self) -> bool:
        """Tells whether the directories are those that were claimed, all of them. If not, the
        intake stops; so it does where they could not be tried when fastjmix started, and cannot
        now."""
        try:
            self._spool.reclaim()
        except (OSError, SpoolError) as problem:
            self._stop(_told(problem)[0])
            return False
        if self._spool.unproved:
            self._prove()
        return True

    def _prove(self) -> None:
        try:
            self._spool.probe()
        except OSError as problem:
            self._stop(_told(problem)[0])

    def probe_due(self) -> bool:
        """Tries the storage when it is time; the intake resumes when that works. True: just now."""
        if time.monotonic() < self.due:
            return False
        try:
            self._spool.reclaim()
            self._spool.probe()
        except (OSError, SpoolError) as problem:
            self.due = time.monotonic() + PROBE_SECS
            self._tell(problem)
            return False
        self.due = math.inf
        self._failed_at = -math.inf
        self._stats.set("intake_stopped", 0)
        log.get().warning("intake_resumed")
        return True

    def _tell(self, problem: OSError | SpoolError) -> None:
        why, hint = _told(problem)
        if why != self._in_the_way:
            self._in_the_way = why
            log.get().error("intake_still_stopped", why=why, hint=hint)


def _told(problem: OSError | SpoolError) -> tuple[str, str | None]:
    """Returns the reason, and what a person can do."""
    if isinstance(problem, SpoolError):
        return problem.message, problem.hint
    gone = isinstance(storage_error(problem), StorageGone)
    return reason(problem), PUT_BACK if gone else None
