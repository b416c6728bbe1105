"""Does what a person asks for: retry, hold, release and requeue envelopes.

Guaranteed: one result for each envelope. A hold and its end, and a move out of rejected/, are
durable before the answer. An envelope that is uploaded or moved now is left alone. An error
concerns one envelope. Each request is an event of the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from fastjmix import log
from fastjmix.errors import DamagedTicket, reason
from fastjmix.ipc.actions import DATAGRAM_BYTES_MAX, DONE, ActionAnswer, ActionRequest, Kind
from fastjmix.ipc.events import Events
from fastjmix.jmix.ids import is_id
from fastjmix.spool import Spool
from fastjmix.spool.holds import Holds
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.deliveries import Deliveries
from fastjmix.uploader.outbox_watcher import read_ticket
from fastjmix.uploader.queue import Key, key_of
from fastjmix.uploader.target import Target, Targets

SHOWN: Final = 50
"""Ids in one event of the ledger; the others are counted."""

BUSY_SECS: Final = 1.0
"""How long an action waits for an attempt that is under way: most last less."""

LOOK_SECS: Final = 0.02

BUSY: Final = "it is being sent now: see what comes of it"
ABSENT: Final = "it is not in outbox/"
NOT_HELD: Final = "it is not on hold"
NOT_REJECTED: Final = "it is not in rejected/"


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

    async def _is_busy(self, key: Key) -> bool:
        """Returns whether an envelope is sent or moved for longer than BUSY_SECS from now."""
        now = asyncio.get_running_loop().time
        until = now() + BUSY_SECS
        while self._deliveries.is_busy(key) and now() < until:
            await asyncio.sleep(LOOK_SECS)
        return self._deliveries.is_busy(key)

    async def _retry(self, envelope_id: str, _: ActionRequest) -> str:
        key = key_of(envelope_id)
        if key in self._backlog.held:
            return "it is on hold: release it"
        if await self._is_busy(key):
            return BUSY
        if key not in self._backlog.known:
            return ABSENT
        ticket = await asyncio.to_thread(read_ticket, self._spool, envelope_id)
        if (target := self._targets.of(ticket)) is None:
            return f"its upstream {ticket.upstream_names!r} is not configured"
        self._due.append((target, key))
        return DONE

    async def _hold(self, envelope_id: str, request: ActionRequest) -> str:
        key = key_of(envelope_id)
        if key not in self._backlog.known:
            return ABSENT
        ticket = await asyncio.to_thread(read_ticket, self._spool, envelope_id)
        if ticket.awaited:
            return "its sender waits for the answer of the upstream"
        if await self._is_busy(key):  # an attempt may have begun while its ticket was read
            return BUSY
        if key not in self._backlog.known:
            return ABSENT
        # Noted before it is durable, so that no upload begins meanwhile.
        if not self._backlog.hold(key, ticket):
            return "it is on hold already, or its upstream is not configured"
        try:
            await asyncio.to_thread(self._holds.put, envelope_id, request.by, request.why)
        except FileExistsError:
            return "it is on hold already"
        except OSError:
            self._backlog.release(key)
            raise
        return DONE

    async def _release(self, envelope_id: str, _: ActionRequest) -> str:
        key = key_of(envelope_id)
        try:
            await asyncio.to_thread(self._holds.lift, envelope_id)
        except FileNotFoundError:
            return NOT_HELD
        self._backlog.release(key)
        return DONE

    async def _requeue(self, envelope_id: str, _: ActionRequest) -> str:
        try:
            await asyncio.to_thread(self._spool.requeue, envelope_id)
        except FileNotFoundError:
            return NOT_REJECTED
        except FileExistsError:
            return "outbox/ has another file of this name"
        self._list_anew()
        return DONE

    def _note(self, request: ActionRequest, results: Mapping[str, str]) -> None:
        done = [one for one, result in results.items() if result == DONE]
        log.get().info(
            "action",
            action=request.kind.value,
            by=request.by,
            done=len(done),
            failed=len(results) - len(done) or None,
        )
        self._events.send(
            "action",
            actor=request.by,
            action=request.kind.value,
            envelopes=done[:SHOWN],
            more=max(0, len(done) - SHOWN),
            why=request.why,
            result=next((why for why in results.values() if why != DONE), DONE),
        )
