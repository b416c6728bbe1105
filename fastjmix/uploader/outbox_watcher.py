"""Finds new envelopes in outbox/: by a listing, at a bell or once in a while without one.

Wanted: an envelope is known a moment after it was sealed, whoever sealed it; 100,000 of them, too.
Guaranteed: oldest first; each is given to `take_in` once, with its ticket, and what has left
meanwhile is not. One whose ticket is missing, damaged or cannot be read waits: it keeps nobody
back, is reported once, and looked at again after `rescan_secs` or sooner. Files in outbox/ that are
not fastjmix's are reported once, and left alone. A listing opens the tickets of new ones only;
after a crash the supervisor rings the bell (supervisor/loop.py). An envelope that a person took
away is forgotten at the next listing that no bell asked for. All disk work is done in a thread.
Still wrong: while envelopes arrive among 100,000 that wait, a fifth of a processor lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.spool import Spool, Ticket
from fastjmix.uploader.queue import Key, key_of

SCAN_REST: Final = 4.0
"""Times as long as a listing of outbox/ took pass before the next: with 100,000 waiting one takes
a good part of a second, and a bell for each new envelope must not make it a full-time job."""

UNREADABLE_FEW: Final = 100
"""Tickets that could not be read are tried at each listing, as long as there are no more: a bell
may say that one is there now. More of them wait for `rescan_secs`."""

TICKETS_AT_ONCE: Final = 1000
"""Read before what they say is acted on: a backlog's first upload need not wait for its last."""


FOREIGN_TOLD_MAX: Final = 1000
"""Foreign names in outbox/ that are kept, so that each is reported once; beyond them none is."""

FOREIGN_SHOWN: Final = 20
"""Foreign names in one line of the log."""


class TakeIn(Protocol):
    """Hears of new envelopes. `doubtful`: they were there when this process began."""

    def __call__(self, found: Sequence[tuple[str, Ticket]], *, doubtful: bool) -> None: ...


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
        self._unreadable: set[Key] = set()
        self._retry_at = 0.0
        self._foreign: set[str] = set()
        self.bell = asyncio.Event()

    @property
    def unreadable(self) -> int:
        """Number of envelopes that wait for somebody to mend their tickets."""
        return len(self._unreadable)

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
        now = asyncio.get_running_loop().time()
        retry = now >= self._retry_at or len(self._unreadable) <= UNREADABLE_FEW
        seen = 0
        foreign: list[str] = []

        def known(name: str) -> bool:
            nonlocal seen
            key = key_of(name)
            if key in self._known:
                seen += 1
                return True
            return not retry and key in self._unreadable

        names = await asyncio.to_thread(self._spool.waiting, known, foreign.append)
        reach("uploader.listed")
        self._report_foreign(foreign)
        if exact and seen < len(self._known):
            await self._forget_what_left()
        if retry:
            self._retry_at = now + self._rescan_secs
            self._unreadable &= {key_of(name) for name in names}
        for start in range(0, len(names), TICKETS_AT_ONCE):
            some = names[start : start + TICKETS_AT_ONCE]
            found, unreadable = await asyncio.to_thread(self._tickets, some)
            self._note_unreadable(found, unreadable)
            self._take_in(found, doubtful=self._first)
        self._first = False

    async def _forget_what_left(self) -> None:
        """Their places in a queue are passed over when their turn comes."""
        here = await asyncio.to_thread(lambda: {key_of(name) for name in self._spool.waiting()})
        self._known -= {key for key in self._known - here if not self._runs(key)}
        self._take_in((), doubtful=False)  # so that their number is right

    def _tickets(
        self, names: Sequence[str]
    ) -> tuple[list[tuple[str, Ticket]], list[tuple[str, str]]]:
        """Returns the tickets of those that are still there, and why others cannot be read. Runs in
        a thread.
        """
        found: list[tuple[str, Ticket]] = []
        unreadable: list[tuple[str, str]] = []
        for name in names:
            try:
                found.append((name, read_ticket(self._spool, name)))
            except FileNotFoundError:
                continue
            except DamagedTicket as problem:
                unreadable.append((name, problem.message))
            except OSError as problem:
                unreadable.append((name, problem.strerror or str(problem)))
        return found, unreadable

    def _note_unreadable(
        self, found: Sequence[tuple[str, Ticket]], unreadable: Sequence[tuple[str, str]]
    ) -> None:
        """Logs one line for those that were not unreadable before, however many they are."""
        self._unreadable -= {key_of(name) for name, _ in found}
        new = [one for one in unreadable if key_of(one[0]) not in self._unreadable]
        self._unreadable |= {key_of(name) for name, _ in new}
        if new:
            log.get().error(
                "ticket_unreadable",
                envelope=new[0][0],
                count=len(new),
                problem=new[0][1],
                hint="until its .json is mended it stays in outbox/; the others go on",
            )

    def _report_foreign(self, names: Sequence[str]) -> None:
        """Logs one line for those that came since the last look; the start has named the others."""
        new = [name for name in names if name not in self._foreign]
        new = new[: FOREIGN_TOLD_MAX - len(self._foreign)]
        self._foreign.update(new)
        if new and not self._first:
            log.get().warning(
                "foreign_files",
                count=len(new),
                names=", ".join(f"outbox/{name}" for name in new[:FOREIGN_SHOWN]),
                hint="they are not fastjmix's, are left alone, and are not sent",
            )


def read_ticket(spool: Spool, envelope_id: str) -> Ticket:
    """Returns the ticket of an envelope in outbox/.

    Raises FileNotFoundError (the envelope left), DamagedTicket (its ticket, too, is missing),
    OSError.
    """
    try:
        return spool.ticket("outbox", envelope_id)
    except FileNotFoundError:
        if not os.path.lexists(spool.path("outbox", envelope_id)):
            raise
        raise DamagedTicket(
            f"outbox/{envelope_id}.json is missing",
            "Put it beside its archive: it says where the envelope goes.",
        ) from None
