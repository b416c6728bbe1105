"""Finds new envelopes in outbox/: it lists the directory when woken, or once in a while.

Wanted: an envelope is known a moment after it was sealed, by any process, also among 100,000.
Guaranteed: oldest first; each is added to the backlog once, with its ticket, unless it has left
meanwhile. An envelope whose ticket is missing, damaged or cannot be read delays no other; it is
logged once, and looked at again after `rescan_secs` or sooner. Files in outbox/ that are not
fastjmix's are logged once, and left alone. A listing opens the tickets of new envelopes only. An
envelope on hold stays where it is. One that a person took away is forgotten at the next listing
that nothing woke. All disk work is done in a thread.
The processes that seal envelopes wake the watcher; after a crash of one the supervisor does.
Still wrong: while envelopes arrive among 100,000 that wait, a fifth of a processor lists them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.spool import Spool, Ticket, ends
from fastjmix.spool.holds import Holds
from fastjmix.uploader.backlog import Backlog, Found
from fastjmix.uploader.draining import Draining
from fastjmix.uploader.queue import Key, key_of

SCAN_REST: Final = 4.0
"""Times as long as a listing of outbox/ took pass before the next: with 100,000 waiting one takes
a good part of a second, and a wake-up for each new envelope must not make it a full-time job."""

UNREADABLE_FEW: Final = 100
"""Tickets that could not be read are tried at each listing, as long as there are no more: the
wake-up may be for one of them. More of them wait for `rescan_secs`."""

TICKETS_AT_ONCE: Final = 1000
"""Tickets read before they are added: a backlog's first upload need not wait for its last."""

FOREIGN_TOLD_MAX: Final = 1000
"""Foreign names in outbox/ that are kept, so that each is logged once; beyond them none is."""

FOREIGN_SHOWN: Final = 20
"""Foreign names in one line of the log."""


class OutboxWatcher:
    """Lists outbox/ and adds to the backlog. `is_busy(key)`: is that envelope under way?"""

    def __init__(
        self,
        spool: Spool,
        backlog: Backlog,
        is_busy: Callable[[Key], bool],
        rescan_secs: float,
        draining: Draining,
    ) -> None:
        self._draining = draining
        self._spool = spool
        self._backlog = backlog
        self._holds = Holds(spool)
        self._is_busy = is_busy
        self._rescan_secs = rescan_secs
        self._first = True
        self._retry_at = 0.0
        self._foreign: set[str] = set()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Lists outbox/ soon: there may be a new envelope."""
        self._woken.set()

    async def watch(self) -> None:
        """Lists outbox/ until it is cancelled."""
        now = asyncio.get_running_loop().time
        woken = False
        while True:
            began, demand = now(), self._draining.number
            self._woken.clear()
            try:
                await self._list(exact=not woken)
                self._draining.note_listing(demand)
            except OSError as problem:
                log.get().error("outbox_unreadable", problem=problem.strerror)
            await asyncio.sleep((now() - began) * SCAN_REST)
            woken = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rescan_secs):
                    woken = await self._woken.wait()

    async def _list(self, *, exact: bool) -> None:
        """Lists outbox/. `exact`: also forgets what a person took away. Raises OSError."""
        now = asyncio.get_running_loop().time()
        unreadable = self._backlog.unreadable
        retry = now >= self._retry_at or len(unreadable) <= UNREADABLE_FEW
        seen = 0
        foreign: list[str] = []

        def known(name: str) -> bool:
            nonlocal seen
            key = key_of(name)
            if key in self._backlog.known:
                seen += 1
                return key not in self._backlog.stale
            return not retry and key in unreadable

        names = await asyncio.to_thread(self._spool.outbox_listing.ids, known, foreign.append)
        reach("uploader.listed")
        self._log_foreign(foreign)
        if exact:
            await self._release_what_is_free()
            if seen < len(self._backlog.known):
                await self._forget_what_left()
        if retry:
            self._retry_at = now + self._rescan_secs
            unreadable &= {key_of(name) for name in names}
        for start in range(0, len(names), TICKETS_AT_ONCE):
            some = names[start : start + TICKETS_AT_ONCE]
            found, faulty = await asyncio.to_thread(self._read_tickets, some)
            self._note_unreadable(found, faulty)
            self._backlog.add(found, maybe_stored=self._first)
        self._first = False

    async def _release_what_is_free(self) -> None:
        """Sends on envelopes whose .hold a person has deleted."""
        if self._backlog.held:
            held = {key_of(name): name for name in await asyncio.to_thread(self._holds.any_ids)}
            for key in self._backlog.held.keys() - held.keys():
                self._backlog.release(key)
            for key in [one for one in self._backlog.held if self._backlog.is_shared(one)]:
                with contextlib.suppress(OSError, DamagedTicket):  # it is looked at once more
                    now = (await asyncio.to_thread(self._read, held[key])).held
                    self._backlog.keep_held(key, now)

    async def _forget_what_left(self) -> None:
        here = await asyncio.to_thread(
            lambda: {key_of(name) for name in self._spool.outbox_listing.ids()}
        )
        gone = self._backlog.known - here
        self._backlog.forget(*(key for key in gone if not self._is_busy(key)))

    def _read_tickets(self, names: Sequence[str]) -> tuple[list[Found], list[tuple[str, str]]]:
        """Returns the tickets of the envelopes that are still there, and the problems of the
        others. Runs in a thread.
        """
        found: list[Found] = []
        faulty: list[tuple[str, str]] = []
        for name in names:
            try:
                found.append(self._read(name))
            except FileNotFoundError:
                continue
            except DamagedTicket as problem:
                faulty.append((name, problem.message))
            except OSError as problem:
                faulty.append((name, problem.strerror or str(problem)))
        return found, faulty

    def _read(self, envelope_id: str) -> Found:
        """Reads what is beside an archive. Raises FileNotFoundError, DamagedTicket, OSError."""
        ticket = read_ticket(self._spool, envelope_id)
        ended = ends.read(self._spool, ticket)
        held = self._holds.of(ticket)
        return Found(envelope_id, ticket, ends.pending(ticket, ended), held)

    def _note_unreadable(self, found: Sequence[Found], faulty: Sequence[tuple[str, str]]) -> None:
        """Logs one line for all that were not unreadable before, however many they are."""
        unreadable = self._backlog.unreadable
        unreadable -= {key_of(one.id) for one in found}
        new = [one for one in faulty if key_of(one[0]) not in unreadable]
        unreadable |= {key_of(name) for name, _ in new}
        if new:
            log.get().error(
                "ticket_unreadable",
                envelope=new[0][0],
                count=len(new),
                problem=new[0][1],
                hint="until its .json is mended it stays in outbox/; the others go on",
            )

    def _log_foreign(self, names: Sequence[str]) -> None:
        """Logs one line for the files that came since the last listing.

        The spool's check at the start has named those that were there before.
        """
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

    Raises FileNotFoundError (the envelope left), DamagedTicket (also when its ticket is missing),
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
