"""Leads each envelope through the hooks of its pipeline, before its first attempt.

    every hook passes    the envelope goes to its upstreams, with the hooks' tags in its ticket
    a veto               outbox/ → rejected/, with the hook's reason
    a failure            outbox/<id>.hold, with the reason: a person releases it, and it runs again

Guaranteed: no envelope of a pipeline with hooks is sent before each of them has passed it in this
run of the process. A hook runs at least once for an envelope: once more after a restart, and after
a release. An archive that is not the same file, size and time afterwards is a failure: one that is
gone is put back (spool/shown.py). Its CRC-32 are compared on the way to the upstream, as every
archive's (integrity.py). The ledger reads a ticket again that has tags of hooks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from fastjmix import log
from fastjmix.config.tree import Hook
from fastjmix.errors import reason
from fastjmix.hooks.command import Commands
from fastjmix.hooks.verdict import Result, Verdict, failure, verdict
from fastjmix.ipc.events import Events
from fastjmix.spool import Spool, Ticket
from fastjmix.spool.shown import ShownArchive
from fastjmix.uploader.queue import Key, key_of

HooksOfPipelines = Mapping[str, tuple[Hook, ...]]

FORGOTTEN_MIN: Final = 1000
"""Envelopes that have passed and left, before they are forgotten together."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A verdict that keeps an envelope, and the hook that gave it."""

    hook: str
    verdict: Verdict

    @property
    def vetoed(self) -> bool:
        """True for a veto, False for a failure."""
        return self.verdict.result is Result.VETOED

    @property
    def reason(self) -> str:
        """Returns one sentence for a person."""
        how = "vetoes it" if self.vetoed else "failed"
        return f"the hook {self.hook} {how}: {self.verdict.reason}"


class Hooking:
    """The hooks of one uploader. `known` are the envelopes of outbox/."""

    def __init__(
        self,
        spool: Spool,
        hooks: HooksOfPipelines,
        known: Callable[[], Set[Key]],
        events: Events,
    ) -> None:
        self._spool = spool
        self._events = events
        self._known = known
        self._hooks: HooksOfPipelines = {}
        self._commands = Commands()
        self._threads: dict[Hook, ThreadPoolExecutor] = {}
        self._running: dict[Key, asyncio.Task[Stopped | None]] = {}
        self._passed: set[Key] = set()
        self._stopping = False
        self.adopt(hooks)

    def adopt(self, hooks: HooksOfPipelines) -> None:
        """Makes these the hooks from now on. An envelope that has passed others passes these before
        its next attempt."""
        if hooks == self._hooks:
            return
        self._hooks = hooks
        self._passed.clear()
        wanted = {hook for those in hooks.values() for hook in those}
        for hook in self._threads.keys() - wanted:
            self._threads.pop(hook).shutdown(wait=False)
        for hook in wanted - self._threads.keys():
            self._threads[hook] = ThreadPoolExecutor(hook.at_once, f"hook-{hook.name}")

    async def check(self, ticket: Ticket) -> Stopped | None:
        """Runs the hooks of an envelope, unless it has passed them. Returns what stops it.

        Attempts at several upstreams wait for the same run. Raises OSError, DamagedTicket.
        """
        hooks = self._hooks.get(ticket.pipeline, ())
        key = key_of(ticket.id)
        if not hooks or key in self._passed:
            return None
        if key not in self._running:
            task = asyncio.create_task(self._run(hooks, ticket))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        stopped = await asyncio.shield(self._running[key])
        if stopped is None and self._hooks.get(ticket.pipeline) == hooks:
            self._passed.add(key)
            if len(self._passed) > len(self._known()) + FORGOTTEN_MIN:
                self._passed &= self._known()
        return stopped

    async def stop(self) -> None:
        """Kills the commands that run: their envelopes stay in outbox/ as they are."""
        self._stopping = True
        self._commands.stop()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for threads in self._threads.values():
            threads.shutdown(wait=False)

    async def _run(self, hooks: tuple[Hook, ...], ticket: Ticket) -> Stopped | None:
        tags: list[str] = []
        for hook in hooks:
            began = time.monotonic()
            found = await self._verdict(hook, ticket)
            secs = f"{time.monotonic() - began:.3f}"
            about = {"hook": hook.name, "envelope": ticket.id, "secs": secs}
            if found.result is not Result.PASSED:
                stopped = Stopped(hook.name, found)
                if not stopped.vetoed:
                    log.get().error("hook_failed", **about, reason=found.reason)
                return stopped
            log.get().info("hook_passed", **about, tags=",".join(found.tags) or None)
            tags += found.tags
        if added := tuple(tag for tag in dict.fromkeys(tags) if tag not in ticket.tags):
            await asyncio.to_thread(self._spool.tag, ticket.id, added)
        if tags:  # one killed before this event has added the tags already
            self._events.send("changed", envelope=ticket.id)
        return None

    async def _verdict(self, hook: Hook, ticket: Ticket) -> Verdict:
        with await asyncio.to_thread(ShownArchive, self._spool, ticket.id) as shown:
            run, about = self._commands.run, (shown.path, ticket.id, ticket.pipeline)
            loop, threads = asyncio.get_running_loop(), self._threads[hook]
            ended = await loop.run_in_executor(threads, run, hook, *about)
            changed = await asyncio.to_thread(_change, shown)
        if self._stopping:
            raise asyncio.CancelledError  # killed by `stop`: it runs again after the next start
        if changed:
            return failure(changed)
        return verdict(ended)


def _change(shown: ShownArchive) -> str:
    """Returns what a command has done to its archive, "" for nothing, and puts it back where it is
    gone. Raises OSError."""
    if shown.is_in_place:
        return "it has changed the archive" if shown.is_changed else ""
    try:
        shown.put_back()
    except OSError as problem:
        return f"it has removed the archive, which is lost: {reason(problem)}"
    return "it has removed or replaced the archive, which was put back"


NO_HOOKS: Final[HooksOfPipelines] = {}
