"""Does the uploader's work beside uploads: room on the disk, an eye on the clock and on the bits.

Wanted: sent/ within its bounds, and smaller where the disk is; an alarm when an envelope waits too
long; damage in what waits found while somebody may still have the images.
Guaranteed: only what was delivered is ever deleted, as soon as it is too old or too much. At rest
it costs a look a minute. The scrub reads envelopes that have waited for SCRUB_AGE_SECS, oldest
first, from the disk and not from the page cache, at SCRUB_RATE at most, each once in
SCRUB_REST_SECS; what is damaged is told to `condemn`, what cannot be read waits for the next round.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.spool import SENT_INODES, Retention, Room, Spool
from fastjmix.uploader.integrity import Damaged, Rereading, examine

REST: Final = 4.0
"""Times as long as a look took pass before the next one."""

ALARM_SECS: Final = 3600.0
"""Where the configuration says nothing: an upstream that is away for an hour is news."""

SCRUB_AGE_SECS: Final = 3600.0
"""What is younger is about to be sent, and every byte of it is checked then."""

SCRUB_RATE: Final = 16e6
"""Bytes a second: a terabyte in less than a day, and no more than a tenth of a slow disk."""

SCRUB_REST_SECS: Final = 86400.0
"""Between two rounds: bits rot slowly."""

SCRUB_AT_ONCE: Final = 64
"""Names that are kept of a round: a backlog may be 100,000."""

TOLD_MAX: Final = 10
"""Envelopes that one round names because they cannot be read; it counts the others."""

EXPIRY_SECS_MIN: Final = 0.1
"""Seconds between two looks for envelopes that have become too old."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What may stay. `secs` and `size` bound sent/ (None: without that limit); `room` is the disk's
    (None: not looked at); an envelope that waits longer than `alarm_secs` is an alarm."""

    secs: float | None = None
    size: int | None = None
    room: Room | None = None
    alarm_secs: float = ALARM_SECS


class Upkeep:
    """`condemn(id, why)` is awaited for each envelope in outbox/ that is found damaged."""

    def __init__(
        self,
        spool: Spool,
        keep: Keep,
        condemn: Callable[[str, str], Awaitable[None]],
        look_secs: float,
        scrub_age_secs: float,
    ) -> None:
        self._spool = spool
        self._keep = keep
        self._retention = Retention(spool, keep.secs, keep.size)
        self._condemn = condemn
        self._look_secs = look_secs
        self._scrub_age_secs = scrub_age_secs
        self._stirred = asyncio.Event()
        self._aged = asyncio.Event()
        self._late = False

    def stir(self) -> None:
        """An envelope came or went: the disk may be fuller than it was."""
        self._stirred.set()

    def delivered(self, envelope_id: str) -> None:
        """Notes that an envelope has come to sent/."""
        self._retention.delivered(envelope_id)

    async def tend(self) -> None:
        """Looks at age and at the contents of sent/ each minute; at its bounds, and at room, when
        something changed.
        """
        now = asyncio.get_running_loop().time
        due = now()
        while True:
            began = now()
            self._stirred.clear()
            if began >= due:
                due = began + self._look_secs
                await self._try(self._look_at_age())
                await self._try(self._survey())
            await self._try(self._trim())
            await asyncio.sleep((now() - began) * REST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(due, now() + self._expiry_secs())):
                    await self._stirred.wait()

    async def _try(self, work: Awaitable[None]) -> None:
        """Runs a step. A failure of the disk is no reason to leave out the rest."""
        try:
            await work
        except OSError as problem:
            log.get().error("upkeep_failed", problem=problem.strerror)

    async def _look_at_age(self) -> None:
        self._judge_age(await asyncio.to_thread(self._spool.oldest_waiting))

    def _expiry_secs(self) -> float:
        due = self._retention.due_secs
        return math.inf if due is None else max(due, EXPIRY_SECS_MIN)

    async def _survey(self) -> None:
        """Surveys a portion at a time: others want the disk and this thread's turn."""
        if await asyncio.to_thread(lambda: self._retention.stale):
            portions = self._retention.survey()
            while await asyncio.to_thread(_advance, portions):
                pass

    async def _trim(self) -> None:
        """Raises OSError."""
        room = self._keep.room
        wanted, inodes = (room.wanted(), room.wanted_inodes()) if room is not None else (0, 0)
        for_room, for_inodes = max(0, wanted) or None, max(0, inodes) or None
        count, more = 0, True
        while more:
            removed = await asyncio.to_thread(self._retention.trim, wanted, inodes)
            count += len(removed.ids)
            wanted -= removed.size
            inodes -= len(removed.ids) * SENT_INODES
            more = removed.more
            if self._retention.exhausted:
                await self._survey()
        if count:
            told = {"for_room": for_room, "for_inodes": for_inodes}
            log.get().info("envelopes_expired", count=count, **told)

    def _judge_age(self, oldest: float | None) -> None:
        age = max(0.0, time.time() - oldest) if oldest is not None else 0.0
        if age >= self._scrub_age_secs:
            self._aged.set()
        late, self._late = self._late, age > self._keep.alarm_secs
        if self._late and not late:
            log.get().error(
                "queue_is_old",
                oldest_secs=int(age),
                queue_alarm_secs=self._keep.alarm_secs,
                hint="upload_retry, upstream_paused and upstream_held say why",
            )
        elif late and not self._late:
            log.get().info("queue_is_young_again", oldest_secs=int(age))

    # -- the scrub ---------------------------------------------------------------------------

    async def scrub(self) -> None:
        """Reads what has waited for long, again and again, and slowly."""
        while True:
            await self._aged.wait()
            self._aged.clear()
            try:
                await self._round()
            except OSError as problem:
                log.get().error("scrub_failed", problem=problem.strerror)
            await asyncio.sleep(SCRUB_REST_SECS)

    async def _round(self) -> None:
        after, before = (0.0, ""), time.time() - self._scrub_age_secs
        unreadable = 0
        while some := await asyncio.to_thread(
            self._spool.some_waiting, after, before, SCRUB_AT_ONCE
        ):
            for _, envelope_id in some:
                try:
                    await self._read(envelope_id)
                except OSError as problem:
                    unreadable += 1
                    if unreadable <= TOLD_MAX:
                        why = problem.strerror
                        log.get().error("envelope_unreadable", envelope=envelope_id, problem=why)
            after = some[-1]
        if unreadable > TOLD_MAX:
            log.get().error("scrub_failed", problem="more cannot be read", count=unreadable)

    async def _read(self, envelope_id: str) -> None:
        """Raises OSError."""
        try:
            reading = await asyncio.to_thread(self._open, envelope_id)
            while reading is not None and (size := await asyncio.to_thread(reading.step)):
                await asyncio.sleep(size / SCRUB_RATE)
        except FileNotFoundError:
            return  # its turn came
        except Damaged as problem:
            await self._condemn(envelope_id, str(problem))

    def _open(self, envelope_id: str) -> Rereading | None:
        """Opens an archive. Returns None for one that somebody waits for, which is sent or
        deleted soon; and for one whose ticket says nothing (outbox_watcher.py tells of that)."""
        archive = self._spool.path("outbox", envelope_id)
        try:
            ticket = self._spool.ticket("outbox", envelope_id)
        except DamagedTicket:
            return None
        return None if ticket.awaited else Rereading(archive, examine(archive, ticket))


def _advance(portions: Iterator[None]) -> bool:
    """Takes the next step; False when there is none. (StopIteration cannot leave a thread.)"""
    return next(portions, _END) is not _END


_END: Final = object()
