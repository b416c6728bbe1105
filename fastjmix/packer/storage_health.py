"""Stops the intake when the storage fails, until a probe shows that it works again.

Wanted: modalities learn of a broken disk when they ask for an association, not instance by
instance.
Guaranteed: the first failure costs only what it touched. Three things stop the intake: a second
failure within STORM_SECS, a directory of the storage that is gone (StorageGone), and a start on
storage that has no free space or fails. While it is stopped, receivers reject associations
(transient), and /readyz says why. Each PROBE_SECS the directories that are gone are made again,
where the storage directory itself is there (Spool.reclaim), and a small file is written, synced,
renamed and read back; when that works, the intake resumes. The log names the obstacle whenever it
has changed. The uploader is never stopped. A draft that cannot be recovered is no failure of the
storage, unless the small file fails, too.
Still wrong: a disk that takes small files and fails large ones is noticed only by the instances.
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
from fastjmix.ipc.metrics import Metrics
from fastjmix.spool import Spool

STORM_SECS: Final = 60.0
"""Two failures on two files within a minute are not an accident of one file."""

PROBE_SECS: Final = 1.0
"""How often storage that failed is probed: the intake resumes within a second of its recovery."""

SCARCE: Final = (StorageFull, LimitReached, NameTaken)
"""Something has run out for now, or another file has the name that one of ours is to get: the
storage itself works."""

PUT_BACK: Final = (
    "Make the directory of [storage.options] path again, empty, with its owner and mode, or mount"
    " its disk again: reception then goes on by itself. After a change of disks restart fastjmix."
)


class StorageHealth:
    """The health of the storage as one packer sees it; metrics show it to the other processes."""

    def __init__(self, spool: Spool, metrics: Metrics) -> None:
        self._spool = spool
        self._metrics = metrics
        self._failed_at = -math.inf
        self._logged_reason = ""
        self.due = math.inf
        """When the next probe is due, in monotonic seconds."""

    @property
    def stopped(self) -> bool:
        """True while the intake is stopped."""
        return self.due < math.inf

    def require_running(self) -> None:
        """Raises StorageFailed while the intake is stopped."""
        if self.stopped:
            raise StorageFailed("the storage has failed")

    # -- failures --------------------------------------------------------------------------------

    def count_failure(self, problem: OSError) -> None:
        """Counts a failure of the storage; the second one stops the intake."""
        now = time.monotonic()
        repeated, self._failed_at = now - self._failed_at < STORM_SECS, now
        self._metrics.add("storage_failures_total")
        failure = storage_error(problem)
        if (repeated or isinstance(failure, StorageGone)) and not self.stopped:
            self._stop(failure.message)

    def count_if_storage_failed(self, problem: Exception) -> None:
        """Counts a failure of anything that writes, if it is one of the storage.

        A resource that has run out comes back, and so may a key that signs envelopes. Any other
        error of the system is a failure of the storage.
        """
        if isinstance(problem, OSError) and isinstance(storage_error(problem), StorageFailed):
            self.count_failure(problem)

    def recovery_failed(self, problem: OSError) -> None:
        """Probes the storage at once, since a draft could not be recovered.

        If the probe works, the fault is the draft's: one draft that cannot be read does not stop
        the intake.
        """
        if self.stopped or isinstance(storage_error(problem), SCARCE):
            return
        try:
            self._probe()
        except (OSError, SpoolError) as failure:
            if isinstance(failure, SpoolError) or not isinstance(storage_error(failure), SCARCE):
                self._metrics.add("storage_failures_total")
                self._stop(_explained(failure)[0])

    def _stop(self, why: str) -> None:
        self._metrics.set("intake_stopped", 1)
        self.due = time.monotonic() + PROBE_SECS
        self._logged_reason = why
        log.get().error("intake_stopped", why=why)

    # -- probes ----------------------------------------------------------------------------------

    def check_at_start(self) -> bool:
        """Returns True when all directories are those that fastjmix claimed at its start.

        Stops the intake if they are not. Stops it, too, where they could not be probed when
        fastjmix started and cannot be now; the directories are then still ours.
        """
        try:
            self._spool.reclaim()
        except (OSError, SpoolError) as problem:
            self._stop(_explained(problem)[0])
            return False
        if self._spool.unproved:
            try:
                self._spool.probe()
            except OSError as problem:
                self._stop(_explained(problem)[0])
        return True

    def resume_if_recovered(self) -> bool:
        """Probes the storage when that is due; returns True when the intake resumes now."""
        if time.monotonic() < self.due:
            return False
        try:
            self._probe()
        except (OSError, SpoolError) as problem:
            self.due = time.monotonic() + PROBE_SECS
            self._log_if_changed(problem)
            return False
        self.due = math.inf
        self._failed_at = -math.inf
        self._metrics.set("intake_stopped", 0)
        log.get().warning("intake_resumed")
        return True

    def _probe(self) -> None:
        """Writes and reads back a small file. Raises OSError, SpoolError."""
        self._spool.reclaim()
        self._spool.probe()

    def _log_if_changed(self, problem: OSError | SpoolError) -> None:
        why, hint = _explained(problem)
        if why != self._logged_reason:
            self._logged_reason = why
            log.get().error("intake_still_stopped", why=why, hint=hint)


def _explained(problem: OSError | SpoolError) -> tuple[str, str | None]:
    """Returns the reason, and the operator's remedy where there is one."""
    if isinstance(problem, SpoolError):
        return problem.message, problem.hint
    gone = isinstance(storage_error(problem), StorageGone)
    return reason(problem), PUT_BACK if gone else None
