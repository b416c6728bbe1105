"""What is new in outbox/: found by a listing, at a bell or once in a while without one.

Wanted: an envelope is known a moment after it was sealed, whoever sealed it; 100,000 of them, too.
Guaranteed: oldest first; each is given to `take_in` once, with its ticket (None: damaged), and what
has left meanwhile is not. A listing opens the tickets of new ones only, and the process that dies
before it rings has the bell rung for it (supervisor.py). What a person took away is forgotten at
the next listing that no bell asked for. All disk work is done in a thread.
Still wrong: while envelopes arrive among 100,000 that wait, a fifth of a processor lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.intact import is_id
from fastjmix.queues import Key, key_of
from fastjmix.spool import Spool, Ticket

SCAN_REST: Final = 4.0
"""Times as long as a listing of outbox/ took pass before the next: with 100,000 waiting one takes
a good part of a second, and a bell for each new envelope must not make it a full-time job."""

TICKETS_AT_ONCE: Final = 1000
"""Read before what they say is acted on: a backlog's first upload need not wait for its last."""


class TakeIn(Protocol):
    """Told of new envelopes. `doubtful`: they were there when this process began."""

    def __call__(self, found: Sequence[tuple[str, Ticket | None]], *, doubtful: bool) -> None: ...


class Arrivals:
    """`known` is what `take_in` has got and nobody has forgotten since; `runs`: is it under way?"""

    def __init__(
        self,
        spool: Spool,
        known: set[Key],
        runs: Callable[[Key], bool],
        take_in: TakeIn,
        rescan_secs: float,
    ) -> None:
        self._spool = spool
        self._known = known
        self._runs = runs
        self._take_in = take_in
        self._rescan_secs = rescan_secs
        self._first = True
        self.bell = asyncio.Event()

    async def watch(self) -> None:
        """Lists for ever."""
        now = asyncio.get_running_loop().time
        rung = False
        while True:
            began = now()
            self.bell.clear()
            try:
                await self._look(exact=not rung)
            except OSError as problem:
                log.get().error("outbox_unreadable", problem=problem.strerror)
            await asyncio.sleep((now() - began) * SCAN_REST)
            rung = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rescan_secs):
                    rung = await self.bell.wait()

    async def _look(self, *, exact: bool) -> None:
        """`exact`: what a person took away is forgotten, too. Raises OSError."""
        seen = 0

        def known(name: str) -> bool:
            nonlocal seen
            if key_of(name) not in self._known:
                return False
            seen += 1
            return True

        names = await asyncio.to_thread(self._spool.waiting, known)
        reach("uploader.listed")
        if exact and seen < len(self._known):
            await self._forget_what_left()
        for start in range(0, len(names), TICKETS_AT_ONCE):
            some = names[start : start + TICKETS_AT_ONCE]
            self._take_in(await asyncio.to_thread(self._tickets, some), doubtful=self._first)
        self._first = False

    async def _forget_what_left(self) -> None:
        """Their places in a queue are passed over when their turn comes."""
        here = await asyncio.to_thread(lambda: {key_of(name) for name in self._spool.waiting()})
        self._known -= {key for key in self._known - here if not self._runs(key)}
        self._take_in((), doubtful=False)  # so that their number is right

    def _tickets(self, names: Sequence[str]) -> list[tuple[str, Ticket | None]]:
        """In a thread: of those that are still there."""
        found: list[tuple[str, Ticket | None]] = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found.append((name, read_ticket(self._spool, name)))
        return found


def read_ticket(spool: Spool, envelope_id: str) -> Ticket | None:
    """The ticket of an envelope in outbox/; None: damaged. Raises FileNotFoundError (it left)."""
    if not is_id(envelope_id):
        return None
    try:
        return spool.ticket("outbox", envelope_id)
    except DamagedTicket:
        return None
    except FileNotFoundError:
        if spool.path("outbox", envelope_id).exists():
            return None
        raise
