"""Does what a person asks for: retry, hold, release and requeue envelopes, and look at a split.

Guaranteed: one result for each envelope. A hold and its end, and a move out of rejected/, are
durable before the answer. An envelope that is uploaded or moved now is left alone. An error
concerns one envelope. Each request is an event of the ledger, but for a split, which it
reads from the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from fastjmix import log
from fastjmix.errors import DamagedTicket, reason
from fastjmix.ipc.actions import DATAGRAM_BYTES_MAX, DONE, ActionAnswer, ActionRequest, Kind
from fastjmix.ipc.events import Events
from fastjmix.jmix.ids import is_id
from fastjmix.spool import Spool, Ticket, ends
from fastjmix.spool.holds import Holds
from fastjmix.spool.part import split_of
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.deliveries import Deliveries
from fastjmix.uploader.outbox_watcher import read_ticket
from fastjmix.uploader.queue import RANKS, Key, key_of
from fastjmix.uploader.target import Target, Targets

SHOWN: Final = 50
"""Ids in one event of the ledger; the others are counted."""

BUSY_SECS: Final = 1.0
"""How long an action waits for an attempt that is under way: most last less."""

LOOK_SECS: Final = 0.02

BUSY: Final = "it is being sent now: see what comes of it"
ABSENT: Final = "it is not in outbox/"
ENDED: Final = "it has ended there"
NOT_HELD: Final = "it is not on hold"
NOT_REJECTED: Final = "it is not in rejected/"
NOT_SPLIT: Final = "it was not split: fastjmix outbox split does that"


class Impossible(Exception):
    """A request cannot be done for an envelope. The text says why, for a person."""


class Chosen(NamedTuple):
    """The upstreams of an envelope that a request is about: all of them, or one of several.

    `number` is the one's in the ticket, None for all; `targets` are those that have to get it.
    `awaited`: a process waits for the outcome.
    """

    ticket: Ticket
    names: tuple[str, ...]
    number: int | None
    targets: tuple[Target, ...] = ()
    awaited: bool = False

    @classmethod
    def of(cls, ticket: Ticket, upstream: str) -> Chosen:
        """Returns the choice of a request, "" for all. Raises Impossible."""
        if not upstream:
            return cls(ticket, ticket.upstreams, None)
        if upstream not in ticket.upstreams:
            raise Impossible(f"it does not go to {upstream!r}")
        several = len(ticket.upstreams) > 1
        return cls(ticket, (upstream,), ticket.upstreams.index(upstream) if several else None)


class Actions:
    """The actions of one uploader. `wake` starts what may start, `list_anew` lists outbox/."""

    def __init__(
        self,
        spool: Spool,
        targets: Targets,
        backlog: Backlog,
        deliveries: Deliveries,
        events: Events,
        *,
        wake: Callable[[], None],
        list_anew: Callable[[], None],
    ) -> None:
        self._spool = spool
        self._holds = Holds(spool)
        self._targets = targets
        self._backlog = backlog
        self._deliveries = deliveries
        self._events = events
        self._wake = wake
        self._list_anew = list_anew
        self._due: list[tuple[Target, Key]] = []
        self._actions: Mapping[Kind, Callable[[str, ActionRequest], Awaitable[str]]] = {
            Kind.RETRY: self._retry,
            Kind.HOLD: self._hold,
            Kind.RELEASE: self._release,
            Kind.REQUEUE: self._requeue,
            Kind.NOTE_SPLIT: self._note_split,
        }

    async def serve(self, requests: socket.socket) -> None:
        """Answers requests until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            datagram = await loop.sock_recv(requests, DATAGRAM_BYTES_MAX)
            try:
                request = ActionRequest.decode(datagram)
            except (ValueError, KeyError, TypeError):
                log.get().error("action_unreadable", bytes=len(datagram))
                continue
            answer = await self.answer(request)
            with contextlib.suppress(OSError):  # the api is gone, or does not read
                async with asyncio.timeout(5):
                    await loop.sock_sendall(requests, answer.encode())

    async def answer(self, request: ActionRequest) -> ActionAnswer:
        """Does what a request asks for, envelope by envelope."""
        action = self._actions[request.kind]
        results = {}
        for envelope_id in dict.fromkeys(request.ids):
            try:
                known = is_id(envelope_id)
                results[envelope_id] = await action(envelope_id, request) if known else "no id"
            except Impossible as why:
                results[envelope_id] = str(why)
            except FileNotFoundError:
                results[envelope_id] = ABSENT
            except (OSError, DamagedTicket) as problem:
                results[envelope_id] = reason(problem)
            except Exception as problem:  # ours: it concerns this envelope
                log.get().error("action_failed", envelope=envelope_id, exc_info=problem)
                results[envelope_id] = "a fault of fastjmix: see its log"
        self._expedite()
        self._note(request, results)
        self._wake()
        return ActionAnswer(request.number, results)

    def _expedite(self) -> None:
        """Makes due what is to be tried now: all of a request at once, for a queue may be long."""
        due, self._due = self._due, []
        for target in self._targets:
            keys = {key for one, key in due if one is target}
            if keys:
                target.availability.lift()
                target.queue.expedite(keys)

    async def _is_busy(self, key: Key, name: str | None = None) -> bool:
        """Returns whether an envelope is sent or moved for longer than BUSY_SECS from now; `name`:
        for the upstream of this name."""
        now = asyncio.get_running_loop().time
        until = now() + BUSY_SECS
        while self._deliveries.is_busy(key, name) and now() < until:
            await asyncio.sleep(LOOK_SECS)
        return self._deliveries.is_busy(key, name)

    async def _read(self, envelope_id: str, request: ActionRequest) -> Chosen:
        """Returns what a request is about, when it is not under way.

        Nothing begins before the caller waits. Raises Impossible, OSError, DamagedTicket.
        """
        key = key_of(envelope_id)
        if key not in self._backlog.known:
            raise Impossible(ABSENT)
        ticket, awaited = await asyncio.to_thread(self._ticket, envelope_id)
        chosen = Chosen.of(ticket, request.upstream)
        if await self._is_busy(key, request.upstream or None):
            raise Impossible(BUSY)
        if key not in self._backlog.known:
            raise Impossible(ABSENT)
        found = (self._targets.of(ticket.pipeline, name) for name in chosen.names)
        targets = tuple(one for one in found if one is not None)
        if not targets:
            raise Impossible(f"its upstream {', '.join(chosen.names)!r} is not configured")
        waiting = tuple(one for one in targets if self._backlog.waits_for(key, one))
        if not waiting:
            raise Impossible(ENDED)
        return chosen._replace(targets=waiting, awaited=awaited)

    def _ticket(self, envelope_id: str) -> tuple[Ticket, bool]:
        """Returns a ticket, and whether a process still waits for the outcome. Raises OSError,
        DamagedTicket."""
        ticket = read_ticket(self._spool, envelope_id)
        return ticket, ticket.awaited and not ends.read(self._spool, ticket)

    async def _retry(self, envelope_id: str, request: ActionRequest) -> str:
        key = key_of(envelope_id)
        chosen = await self._read(envelope_id, request)
        held = self._backlog.held[key].targets if key in self._backlog.held else ()
        free = [one for one in chosen.targets if one not in held]
        if not free:
            return "it is on hold: release it"
        self._due += [(target, key) for target in free]
        return DONE

    async def _hold(self, envelope_id: str, request: ActionRequest) -> str:
        key = key_of(envelope_id)
        chosen = await self._read(envelope_id, request)
        if chosen.awaited:
            return "its sender waits for the answer of the upstream"
        # Noted before it is durable, so that no upload begins meanwhile.
        new = self._backlog.hold(key, chosen.targets, RANKS.index(chosen.ticket.priority))
        try:
            holds = self._holds.put
            await asyncio.to_thread(holds, envelope_id, request.by, request.why, chosen.number)
        except FileExistsError:
            return "it is on hold already"
        except OSError:
            self._backlog.release(key, new)
            raise
        return DONE

    async def _release(self, envelope_id: str, request: ActionRequest) -> str:
        key = key_of(envelope_id)
        try:
            ticket = await asyncio.to_thread(read_ticket, self._spool, envelope_id)
        except FileNotFoundError:
            return NOT_HELD
        chosen = Chosen.of(ticket, request.upstream)
        lifted = await asyncio.to_thread(self._lift, chosen)
        if not lifted:
            return NOT_HELD
        still = await asyncio.to_thread(self._holds.of, ticket)
        self._backlog.keep_held(key, still)
        return DONE

    def _lift(self, chosen: Chosen) -> int:
        """Ends the holds of an envelope, or of its upstream that was chosen; returns how many.
        Raises OSError."""
        numbers: list[int | None] = [chosen.number]
        if chosen.number is None and len(chosen.ticket.upstreams) > 1:
            numbers += range(len(chosen.ticket.upstreams))
        lifted = 0
        for number in numbers:
            with contextlib.suppress(FileNotFoundError):
                self._holds.lift(chosen.ticket.id, number)
                lifted += 1
        return lifted

    async def _requeue(self, envelope_id: str, request: ActionRequest) -> str:
        try:
            only = request.upstream or None
            await asyncio.to_thread(self._spool.requeue, envelope_id, only)
        except FileNotFoundError:
            return NOT_REJECTED
        except KeyError:
            return f"{request.upstream!r} has not refused it"
        except FileExistsError:
            return "outbox/ has another file of this name"
        self._list_anew()
        return DONE

    async def _note_split(self, envelope_id: str, _: ActionRequest) -> str:
        try:
            ticket = await asyncio.to_thread(self._spool.ticket, "rejected", envelope_id)
        except FileNotFoundError:
            return NOT_REJECTED
        if (split := split_of(ticket)) is None:
            return NOT_SPLIT
        for one in (envelope_id, *split.parts):
            self._events.send("changed", envelope=one)
        self._list_anew()
        return DONE

    def _note(self, request: ActionRequest, results: Mapping[str, str]) -> None:
        done = [one for one, result in results.items() if result == DONE]
        log.get().info(
            "action",
            action=request.kind.value,
            by=request.by,
            upstream=request.upstream or None,
            done=len(done),
            failed=len(results) - len(done) or None,
        )
        if request.kind is Kind.NOTE_SPLIT:
            return  # the refusal says who has split it, and when
        self._events.send(
            "action",
            actor=request.by,
            action=request.kind.value,
            envelopes=done[:SHOWN],
            more=max(0, len(done) - SHOWN),
            why=f"for {request.upstream}: {request.why}" if request.upstream else request.why,
            result=next((why for why in results.values() if why != DONE), DONE),
        )
