"""Tells the other processes how the upstreams are: the uploader's row of the state board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal

import orjson

from fastjmix.ipc.board_rows import UPLOADER, UpstreamRow
from fastjmix.ipc.events import Events
from fastjmix.ipc.state_board import StateBoard
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.schedule import open_to
from fastjmix.uploader.target import Target

EVERY_SECS: Final = 0.5
"""How often the row is written: what a person looks at is a second old at most."""

UPSTREAMS_MAX: Final = 50
"""Upstreams in the row. Each takes 1,100 bytes at most, of STATE_MAX (ipc/state_board.py)."""

TEXT_MAX: Final = 160
"""Bytes of each text in JSON: an upstream's answer may have characters of six bytes there."""


class UpstreamStates:
    """Publishes the states of all upstreams. `targets` may be iterated at any time."""

    def __init__(
        self,
        board: StateBoard,
        events: Events,
        targets: Iterable[Target],
        backlog: Backlog,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns Unix seconds, for the targets' schedules."""
        self._clock = clock
        self._board = board
        self._events = events
        self._targets = targets
        self._backlog = backlog
        self._changed = asyncio.Event()

    def note_change(self) -> None:
        """Notes that something may have changed: it is published soon."""
        self._changed.set()

    async def run(self) -> None:
        """Publishes what changes, until it is cancelled. An idle uploader sleeps.

        Also sends events for which the pipe had no space.
        """
        while True:
            self._changed.clear()
            self.publish()
            await asyncio.sleep(EVERY_SECS)
            if not self._events.flush():
                continue
            await self._changed.wait()

    def publish(self) -> None:
        """Writes the row."""
        some = [target for _, target in zip(range(UPSTREAMS_MAX), self._targets, strict=False)]
        self._board.publish(UPLOADER, {"upstreams": [self._state(one) for one in some]})

    def _state(self, target: Target) -> UpstreamRow:
        availability, answer = target.availability, target.last_answer
        now = time.time()
        ahead = availability.until - asyncio.get_running_loop().time()
        state: Literal["available", "paused", "held"] = "available"
        if not availability.available:
            state = "paused" if availability.held is None else "held"
        shown = target.trouble if state != "available" else None
        return {
            "name": _short(target.upstream.name),
            "url": _short(target.upstream.url),
            "state": state,
            "since": target.since,
            "reason": _short(shown.reason) if shown is not None else self._closed(target),
            "next_try": now + max(0.0, ahead) if state != "available" else None,
            "last_answer": None
            if answer is None
            else {
                "at": answer.at,
                "status": answer.status,
                "reason": _short(answer.reason),
                "answer": _short(answer.answer),
            },
            "waiting": len(target.queue),
            "held": sum(target in one.targets for one in self._backlog.held.values()),
            "running": len(target.running),
            "max_envelope_bytes": target.facts.size_limit.max_envelope_bytes,
        }

    def _closed(self, target: Target) -> str:
        """Returns what an available target's schedule keeps back now; "" for nothing."""
        allowance, now = target.upstream.allowance, self._clock()
        if not open_to(allowance, bulk=False, now=now):
            return "outside its schedule: envelopes wait"
        if not open_to(allowance, bulk=True, now=now):
            return "outside its schedule: envelopes of priority bulk wait"
        return ""


def _short(text: str) -> str:
    """Returns the beginning of a text that has TEXT_MAX bytes in JSON at most."""
    kept = text[:TEXT_MAX].encode("utf-8", "replace").decode("utf-8")
    while (over := len(orjson.dumps(kept)) - 2 - TEXT_MAX) > 0:
        kept = kept[: -max(1, over // 6)]
    return kept
