"""Reads envelopes that have waited for long, to find damage while somebody may have the images.

Guaranteed: envelopes of `age_secs` and more, oldest first, are read from the disk and not from the
page cache, at SCRUB_RATE at most, each once in SCRUB_REST_SECS. A damaged one is rejected; one that
cannot be read waits for the next round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.spool import Spool
from fastjmix.uploader.integrity import ArchiveReader, Damaged, examine

SCRUB_RATE: Final = 16e6
"""Bytes a second: a terabyte in less than a day, and no more than a tenth of a slow disk."""

SCRUB_REST_SECS: Final = 86400.0
"""Between two rounds: bits rot slowly."""

SCRUB_AT_ONCE: Final = 64
"""Names that are kept of a round: a backlog may be 100,000."""

UNREADABLE_LOGGED_MAX: Final = 10
"""Envelopes that one round names because they cannot be read; it counts the others."""


class Scrub:
    """The scrub of outbox/. It begins a round when an envelope is `age_secs` old."""

    def __init__(self, spool: Spool, age_secs: float) -> None:
        self._spool = spool
        self._age_secs = age_secs
        self._due = asyncio.Event()

    def note_age(self, secs: float) -> None:
        """Notes for how long the oldest envelope has waited."""
        if secs >= self._age_secs:
            self._due.set()

    async def run(self, reject: Callable[[str, str], Awaitable[None]]) -> None:
        """Makes rounds until cancelled. `reject(id, why)` is called for a damaged envelope."""
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self._round(reject)
            except OSError as problem:
                log.get().error("scrub_failed", problem=problem.strerror)
            await asyncio.sleep(SCRUB_REST_SECS)

    async def _round(self, reject: Callable[[str, str], Awaitable[None]]) -> None:
        after, before = (0.0, ""), time.time() - self._age_secs
        unreadable = 0
        while some := await asyncio.to_thread(
            self._spool.outbox_listing.some, after, before, SCRUB_AT_ONCE
        ):
            for _, envelope_id in some:
                try:
                    await self._read(envelope_id)
                except Damaged as problem:
                    await reject(envelope_id, str(problem))
                except OSError as problem:
                    unreadable += 1
                    if unreadable <= UNREADABLE_LOGGED_MAX:
                        why = problem.strerror
                        log.get().error("envelope_unreadable", envelope=envelope_id, problem=why)
            after = some[-1]
        if unreadable > UNREADABLE_LOGGED_MAX:
            log.get().error("scrub_failed", problem="more cannot be read", count=unreadable)

    async def _read(self, envelope_id: str) -> None:
        """Reads and checks an archive. Raises Damaged, OSError."""
        try:
            reader = await asyncio.to_thread(self._open, envelope_id)
            while reader is not None and (size := await asyncio.to_thread(reader.step)):
                await asyncio.sleep(size / SCRUB_RATE)
        except FileNotFoundError:
            return  # its turn came

    def _open(self, envelope_id: str) -> ArchiveReader | None:
        """Opens an archive. Raises Damaged, OSError.

        Returns None when a process waits for the envelope, which is sent or deleted soon, and when
        its ticket is damaged (outbox_watcher.py logs that).
        """
        archive = self._spool.path("outbox", envelope_id)
        try:
            ticket = self._spool.ticket("outbox", envelope_id)
        except DamagedTicket:
            return None
        return None if ticket.awaited else ArchiveReader(archive, examine(archive, ticket))
