"""Storage that fails twice takes nothing more, until a probe says that it is well again.

Wanted: a broken disk is told to the modalities at the door, not instance by instance.
Guaranteed: the first failure costs what it touched; a second one within STORM_SECS stops the
intake: receivers reject associations (transient), /readyz says why. While it is stopped, a small
file goes each PROBE_SECS all the way that a promise goes; when one arrives, the intake resumes.
Nothing of this stops the uploader.
Still wrong: a disk that takes small files and fails large ones is found out by the instances.
"""

from __future__ import annotations

import math
import time
from typing import Final

from fastjmix import log
from fastjmix.spool import Spool
from fastjmix.stats import Stats

STORM_SECS: Final = 60.0
"""Two failures on two files within a minute are not an accident of one file."""

PROBE_SECS: Final = 1.0
"""How often storage that failed is tried: an answer within a second of its recovery."""


class Health:
    """What one packer knows of the storage; `stats` shows it to the other processes."""

    def __init__(self, spool: Spool, stats: Stats) -> None:
        self._spool = spool
        self._stats = stats
        self._failed_at = -math.inf
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
        if repeated and not self.stopped:
            self._stats.set("intake_stopped", 1)
            self.due = now + PROBE_SECS
            log.get().error("intake_stopped", why=problem.strerror or str(problem))

    def probe_due(self) -> None:
        """Tries the storage when it is time; the intake resumes when that works."""
        if time.monotonic() < self.due:
            return
        try:
            self._spool.probe()
        except OSError:
            self.due = time.monotonic() + PROBE_SECS
        else:
            self.due = math.inf
            self._failed_at = -math.inf
            self._stats.set("intake_stopped", 0)
            log.get().warning("intake_resumed")
