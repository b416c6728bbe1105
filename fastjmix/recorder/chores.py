"""The work of the ledger's process beside the events, a short step at a time.

The ledger is compared with the directories at the start and after a failure, soon again, while
drafts are recovered, and then every RECONCILE_SECS. Old rows are deleted every EXPIRY_SECS. Between
two steps the process reads its events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from fastjmix.config import LedgerSettings
from fastjmix.ledger.expiry import Limits, expire
from fastjmix.ledger.reconcile import reconcile
from fastjmix.recorder.store import Store

SOON_SECS: Final = 1.0
RECONCILE_SECS: Final = 300.0
"""Seconds between two comparisons double from SOON_SECS to RECONCILE_SECS: as long may a lost event
go unnoticed."""

EXPIRY_SECS: Final = 3600.0

REST: Final = 4.0
"""Times as long as a comparison took pass at least before the next one."""


class Chores:
    """The chores of the ledger, each at its time. `behind` counts envelopes still to be read."""

    def __init__(self, store: Store, settings: LedgerSettings) -> None:
        self._store = store
        self._settings = settings
        self._comparing: Iterator[int] | None = None
        self._opened = 0
        self._began = 0.0
        self._compare_at = 0.0
        self._expire_at = 0.0
        self._pause = SOON_SECS
        self.behind = 0

    def adopt(self, settings: LedgerSettings) -> None:
        """Takes over other settings, and deletes soon what they no longer keep."""
        if settings.patient_data != self._settings.patient_data:
            self.compare_soon()
        self._settings = settings
        self._expire_at = 0.0

    def compare_soon(self) -> None:
        """Makes a comparison due: something was missed."""
        self._comparing = None
        self._compare_at = 0.0
        self._pause = SOON_SECS

    @property
    def wait_secs(self) -> float:
        """Seconds until something is due; 0 while something is under way."""
        if self._comparing is not None or self._opened != self._store.opened:
            return 0.0
        return max(0.0, min(self._compare_at, self._expire_at) - time.monotonic())

    def step(self) -> bool:
        """Takes one step of what is due; returns False when nothing is. Raises StoreFailed."""
        now = time.monotonic()
        if self.wait_secs:
            return False
        with self._store.writing() as writer:
            if self._opened != self._store.opened:  # what was under way concerned another file
                self._opened = self._store.opened
                self.compare_soon()
            if self._comparing is None and now >= self._compare_at:
                self._comparing, self._began = reconcile(writer), now
            if self._comparing is not None:
                self._compare()
            elif not expire(writer, self._limits(), time.time()):
                self._expire_at = now + EXPIRY_SECS
        return True

    def _limits(self) -> Limits:
        return Limits(self._settings.max_age_secs, self._settings.max_bytes)

    def _compare(self) -> None:
        assert self._comparing is not None
        left = next(self._comparing, None)
        self.behind = left or 0
        if left is None:
            self._comparing = None
            now = time.monotonic()
            self._compare_at = now + max(self._pause, (now - self._began) * REST)
            self._pause = min(2 * self._pause, RECONCILE_SECS)
