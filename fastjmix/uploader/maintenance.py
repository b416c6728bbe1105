"""Keeps sent/ within its bounds, and watches how long envelopes wait for their upstream.

Wanted: room on the disk; an alarm when an envelope waits too long.
Guaranteed: only what was delivered is ever deleted, as soon as it is too old or too much. At rest
it costs a look a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from fastjmix import log
from fastjmix.config import Config
from fastjmix.spool import SENT_INODES, FreeSpace, Retention, Spool
from fastjmix.uploader.target import Place, upstreams_of

REST: Final = 4.0
"""Times as long as a look took pass before the next one."""

ALARM_SECS: Final = 3600.0
"""The default: an upstream that is unreachable for an hour needs a person."""

RETENTION: Final = "retention"
FOR_ROOM: Final = "deleted for room on the disk"

SPARED_SECS: Final = 2.0
"""Seconds for which a delivered envelope is kept at the least: the ledger reads what it was."""

EXPIRY_SECS_MIN: Final = 0.1
"""Seconds between two looks for envelopes that have become too old."""


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Bounds of the storage.

    `secs` and `size` bound sent/ (None: without that limit); `room` is the disk's (None: not looked
    at); an envelope that waits longer than `alarm_secs` raises an alarm. `spared_secs` after its
    delivery an envelope is still there, unless the disk needs the room. `own` are the seconds of
    the upstreams that have a retention of their own (infinity: without that limit).
    """

    secs: float | None = None
    size: int | None = None
    room: FreeSpace | None = None
    alarm_secs: float = ALARM_SECS
    spared_secs: float = 0.0
    own: Mapping[Place, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, room: FreeSpace | None) -> StorageLimits:
        """Returns the bounds of a configuration."""
        own = config.runtime
        return cls(
            own.retention_secs,
            own.retention_bytes,
            room,
            own.queue_alarm_secs,
            SPARED_SECS,
            {
                place: upstream.retention_secs
                for place, upstream in upstreams_of(config).items()
                if upstream.retention_secs is not None
            },
        )


class Maintenance:
    """Retention and the queue's age.

    `aged(secs)` is called with the age of the oldest envelope, `expired(ids, why)` with those that
    were deleted.
    """

    def __init__(
        self,
        spool: Spool,
        limits: StorageLimits,
        look_secs: float,
        *,
        aged: Callable[[float], None],
        expired: Callable[[list[str], str], None],
    ) -> None:
        self._spool = spool
        self._limits = limits
        self._retention = Retention(
            spool, limits.secs, limits.size, own=limits.own, spared_secs=limits.spared_secs
        )
        self._look_secs = look_secs
        self._aged = aged
        self._expired = expired
        self._changed = asyncio.Event()
        self._due = 0.0
        self._late = False

    def wake(self) -> None:
        """Looks at the disk soon: an envelope came or went, and it may be fuller than it was."""
        self._changed.set()

    def adopt(self, config: Config) -> None:
        """Takes over the bounds of another configuration, and looks at everything soon."""
        room = self._limits.room
        self._limits = StorageLimits.of(config, room)
        if room is not None:
            room.configure(config)
        self._due = 0.0
        self._changed.set()

    def delivered(self, envelope_id: str) -> None:
        """Notes that an envelope has come to sent/."""
        self._retention.delivered(envelope_id)

    async def run(self) -> None:
        """Looks at ages and at the contents of sent/ each minute; at its bounds, and at room, when
        something changed.
        """
        now = asyncio.get_running_loop().time
        while True:
            began = now()
            self._changed.clear()
            limits = self._limits
            self._retention.set_bounds(limits.secs, limits.size, limits.own)  # no thread uses it
            if began >= self._due:
                self._due = began + self._look_secs
                await self._try(self._check_age())
                await self._try(self._survey())
            await self._try(self._trim())
            await asyncio.sleep((now() - began) * REST)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._due, now() + self._expiry_secs())):
                    await self._changed.wait()

    async def _try(self, work: Awaitable[None]) -> None:
        """Runs a step. A failure of the disk is no reason to leave out the rest."""
        try:
            await work
        except OSError as problem:
            log.get().error("upkeep_failed", problem=problem.strerror)

    async def _check_age(self) -> None:
        """Logs when the oldest envelope is too old, and when it no longer is. Raises OSError."""
        oldest = await asyncio.to_thread(self._spool.outbox_listing.oldest)
        age = max(0.0, time.time() - oldest) if oldest is not None else 0.0
        self._aged(age)
        late, self._late = self._late, age > self._limits.alarm_secs
        if self._late and not late:
            log.get().error(
                "queue_is_old",
                oldest_secs=int(age),
                queue_alarm_secs=self._limits.alarm_secs,
                hint="upload_retry, upstream_paused and upstream_held say why",
            )
        elif late and not self._late:
            log.get().info("queue_is_young_again", oldest_secs=int(age))

    def _expiry_secs(self) -> float:
        due = self._retention.due_secs
        return math.inf if due is None else max(due, EXPIRY_SECS_MIN)

    async def _survey(self) -> None:
        """Surveys sent/ in portions, since others need the disk, too. Raises OSError."""
        if await asyncio.to_thread(lambda: self._retention.stale):
            portions = self._retention.survey()
            while await asyncio.to_thread(_advance, portions):
                pass

    async def _trim(self) -> None:
        """Deletes from sent/ what is too old or too much. Raises OSError."""
        room = self._limits.room
        wanted, inodes = (room.wanted(), room.wanted_inodes()) if room is not None else (0, 0)
        for_room, for_inodes = max(0, wanted) or None, max(0, inodes) or None
        why = RETENTION if for_room is None and for_inodes is None else FOR_ROOM
        count, more = 0, True
        while more:
            removed = await asyncio.to_thread(self._retention.trim, wanted, inodes)
            count += len(removed.ids)
            self._expired(removed.ids, why)
            wanted -= removed.size
            inodes -= len(removed.ids) * SENT_INODES
            more = removed.more
            if self._retention.exhausted:
                await self._survey()
        if count:
            lines = log.get()
            lines.info("envelopes_expired", count=count, for_room=for_room, for_inodes=for_inodes)


def _advance(portions: Iterator[None]) -> bool:
    """Takes the next step; False when there is none. (StopIteration cannot leave a thread.)"""
    return next(portions, _END) is not _END


_END: Final = object()
