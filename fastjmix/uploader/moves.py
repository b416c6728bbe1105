"""Moves envelopes whose attempt is over, and tries again what the disk does not let through.

Guaranteed: a process that waits gets the outcome after the first try. A move that fails is tried
again beside the uploads, until the disk lets it through; no more than MOVES_MAX are.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket, reason
from fastjmix.spool.ending import Place
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.outcome import Outcome
from fastjmix.uploader.queue import Key, Waiting
from fastjmix.uploader.reports import Reports
from fastjmix.uploader.retry import Backoff
from fastjmix.uploader.target import Target

MOVES_MAX: Final = 256
"""Envelopes whose upload is over, and whose move in the spool is tried again. Without this bound a
spool that cannot be written would have all of outbox/ uploaded, each with a task of 4 KB, and
uploaded again after a restart."""


Move = Callable[[], Place]
"""A move in the spool: it returns where the envelope is then. It runs in a thread."""

Done = Callable[[Place], None]
"""Notes that a move is over."""


class Moves:
    """The moves of one uploader. `wake` is called when one that was tried again is over, so that
    another upload may start."""

    def __init__(
        self, backlog: Backlog, reports: Reports, backoff: Backoff, wake: Callable[[], None]
    ) -> None:
        self._backlog = backlog
        self._reports = reports
        self._backoff = backoff
        self._wake = wake
        self._moving: dict[tuple[Key, str], asyncio.Task[None]] = {}

    @property
    def full(self) -> bool:
        """True when no other upload may end here, but for those for which a process waits."""
        return len(self._moving) >= MOVES_MAX

    def is_moving(self, key: Key, name: str | None = None) -> bool:
        """Returns whether the move of an envelope is tried again, after the end at the upstream of
        this name."""
        if name is not None:
            return (key, name) in self._moving
        return any(one == key for one, _ in self._moving)

    async def stop(self) -> None:
        """Ends the moves that are tried again: a successor does them, or delivers once more."""
        moving = list(self._moving.values())
        for task in moving:
            task.cancel()
        await asyncio.gather(*moving, return_exceptions=True)

    async def begin(
        self, target: Target, item: Waiting, outcome: Outcome, move: Move, done: Done
    ) -> None:
        """Moves an envelope, and then calls `done`. The report goes out after the first try."""
        state = await self.attempt(item, move)
        await self._reports.send(item, outcome)
        if state is not None:
            self._settle(item, state, done)
            return
        place = item.key, target.upstream.name
        task = asyncio.create_task(self._repeat(item, move, done))
        self._moving[place] = task

        def over(_: asyncio.Task[None]) -> None:
            del self._moving[place]
            self._wake()

        task.add_done_callback(over)

    async def _repeat(self, item: Waiting, move: Move, done: Done) -> None:
        """Repeats a move until the disk lets it through."""
        for failures in itertools.count(1):
            await asyncio.sleep(self._backoff.delay(failures, random.random()))
            if (state := await self.attempt(item, move)) is not None:
                self._settle(item, state, done)
                return

    def _settle(self, item: Waiting, state: Place, done: Done) -> None:
        done(state)
        if state != "outbox":
            self._backlog.forget(item.key)

    async def attempt(self, item: Waiting, move: Move) -> Place | None:
        """Returns where the envelope is then; None when the move has to be tried again."""
        try:
            return await asyncio.to_thread(move)
        except FileNotFoundError:
            log.get().warning("envelope_gone", envelope=item.id)
            return "gone"
        except (OSError, DamagedTicket) as problem:
            log_once(item, "spool_step_failed", problem)
            return None
        except Exception as problem:  # ours; a process may wait for the outcome
            log.get().error("spool_step_failed", envelope=item.id, exc_info=problem)
            return None


def step(move: Callable[[], None], state: Place) -> Move:
    """Returns the move of an envelope for one upstream, which leads to one state."""

    def moved() -> Place:
        move()
        return state

    return moved


def log_once(item: Waiting, event: str, problem: OSError | DamagedTicket) -> None:
    """Logs a problem with an envelope once, though it comes back with each attempt."""
    why = reason(problem)
    if item.problem != why:
        item.problem = why
        log.get().error(event, envelope=item.id, problem=why)
