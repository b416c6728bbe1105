"""What the uploader does beside uploads: room on the disk, an eye on the clock and on the bits.

Wanted: sent/ within its bounds, and smaller where the disk is; an alarm when an envelope waits too
long; damage in what waits found while somebody may still have the images.
Guaranteed: only what was delivered is ever deleted. At rest it costs a look a minute. The scrub
reads envelopes that have waited for SCRUB_AGE_SECS, oldest first, from the disk and not from the
page cache, at SCRUB_RATE at most, each once in SCRUB_REST_SECS; what is damaged is told to
`condemn`.
Still wrong: the look at sent/ asks for the size of each envelope in it: a second for 100,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.intact import Damaged, Rereading, examine
from fastjmix.spool import Room, Spool

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
        self._condemn = condemn
        self._look_secs = look_secs
        self._scrub_age_secs = scrub_age_secs
        self._stirred = asyncio.Event()
        self._aged = asyncio.Event()
        self._late = False

    def stir(self) -> None:
        """An envelope came or went: the disk may be fuller than it was."""
        self._stirred.set()

    async def tend(self) -> None:
        """Retention and age, each minute; room on the disk also when something has changed."""
        now = asyncio.get_running_loop().time
        due = now()
        while True:
            began = now()
            self._stirred.clear()
            try:
                if began >= due:
                    due = began + self._look_secs
                    await asyncio.to_thread(self._trim, 0)
                    self._judge_age(await asyncio.to_thread(self._spool.oldest_waiting))
                await asyncio.to_thread(self._make_room)
            except OSError as problem:
                log.get().error("upkeep_failed", problem=problem.strerror)
            await asyncio.sleep((now() - began) * REST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._stirred.wait()

    def _make_room(self) -> None:
        room = self._keep.room
        wanted, inodes = (room.wanted(), room.wanted_inodes()) if room is not None else (0, 0)
        if wanted > 0 or inodes > 0:
            self._trim(wanted, inodes)

    def _trim(self, wanted: int, inodes: int = 0) -> None:
        removed = self._spool.retain(self._keep.secs, self._keep.size, wanted, inodes)
        if removed:
            log.get().info(
                "envelopes_expired",
                count=len(removed),
                for_room=wanted or None,
                for_inodes=inodes or None,
            )

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
        while some := await asyncio.to_thread(
            self._spool.some_waiting, after, before, SCRUB_AT_ONCE
        ):
            for _, envelope_id in some:
                await self._read(envelope_id)
            after = some[-1]

    async def _read(self, envelope_id: str) -> None:
        try:
            reading = await asyncio.to_thread(self._open, envelope_id)
            while reading is not None and (size := await asyncio.to_thread(reading.step)):
                await asyncio.sleep(size / SCRUB_RATE)
        except FileNotFoundError:
            return  # its turn came
        except OSError as problem:
            log.get().error("envelope_unreadable", envelope=envelope_id, problem=problem.strerror)
        except Damaged as problem:
            await self._condemn(envelope_id, str(problem))

    def _open(self, envelope_id: str) -> Rereading | None:
        """None for one that somebody waits for, which is sent or deleted soon."""
        archive = self._spool.path("outbox", envelope_id)
        try:
            ticket = self._spool.ticket("outbox", envelope_id)
        except DamagedTicket as problem:
            raise Damaged(problem.message) from problem
        return None if ticket.awaited else Rereading(archive, examine(archive, ticket))
