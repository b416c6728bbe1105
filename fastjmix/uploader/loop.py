"""Runs the process outbox → upstream → sent: the only process that holds the upstreams' token.

Wants outbox/ (spool/), an upstream for each pipeline, and Channels.
Guaranteed: no envelope leaves outbox/ except by an answer of its upstream (to sent/ or rejected/),
or, with ack = "uploaded", by a failure that is reported to the process that waits; oldest first; an
unavailable upstream is tried by one envelope at a time; nothing is ever given up for age or number
of attempts; no damaged archive arrives as a whole one (integrity.py).

max_retries bounds only the quick retries of an envelope (1 s, 2 s, 4 s …); after them the back-off
window is its cap at once. A stored envelope is promised: it is tried again without end.

Still wrong: how often an envelope was tried is known to this process only; after a restart the
count begins at 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping

import uvloop

from fastjmix import log
from fastjmix.config import Config, Upstream
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.configuration import Inbox
from fastjmix.spool import FreeSpace, Spool
from fastjmix.uploader.actions import Actions
from fastjmix.uploader.adoption import Adoption
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.deliveries import Deliveries
from fastjmix.uploader.disk_watch import DiskWatch
from fastjmix.uploader.draining import Draining
from fastjmix.uploader.finishing import Finishing
from fastjmix.uploader.history import History
from fastjmix.uploader.hooking import NO_HOOKS, Hooking, HooksOfPipelines
from fastjmix.uploader.maintenance import Maintenance, StorageLimits
from fastjmix.uploader.outbox_watcher import OutboxWatcher
from fastjmix.uploader.pace import Pace
from fastjmix.uploader.reports import Reports
from fastjmix.uploader.scrub import Scrub
from fastjmix.uploader.state import UpstreamStates
from fastjmix.uploader.target import Targets, upstreams_of
from fastjmix.uploader.upstream_memory import UpstreamMemory


class Uploader:
    """Moves envelopes from outbox/ to their upstreams until `Channels.stop` is readable."""

    def __init__(
        self,
        upstreams: Mapping[tuple[str, str], Upstream],
        spool: Spool,
        channels: Channels,
        *,
        pace: Pace | None = None,
        limits: StorageLimits | None = None,
        hooks: HooksOfPipelines = NO_HOOKS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sets up every part. `upstreams` is by (pipeline, upstream's name), as in tickets; `clock`
        returns Unix seconds, for schedules.

        It is longer than other functions: every part is here, after all that it calls.
        """
        pace = pace or Pace()
        self._spool = spool
        self._channels = channels
        self._inbox = channels.configuration
        self._changed = asyncio.Event()
        self._stopping = False
        self._fault: BaseException | None = None
        self._memory = UpstreamMemory(spool)
        self._targets = Targets(upstreams, channels.metrics, pace, self._memory.of)
        self._disk_watch = DiskWatch(limits.room if limits is not None else None)
        self._scrub = Scrub(spool, pace.scrub_age_secs)
        history = History(channels.events)
        self._maintenance = Maintenance(
            spool,
            limits or StorageLimits(),
            pace.upkeep_secs,
            aged=self._scrub.note_age,
            expired=history.expired,
        )
        backlog = Backlog(
            self._targets, channels.metrics, added=self._envelopes_came, left=self._maintenance.wake
        )
        finishing = Finishing(
            spool,
            channels.metrics,
            backlog,
            Reports(channels),
            history,
            pace.backoff,
            delivered=self._maintenance.delivered,
            wake=self._changed.set,
            is_uploading=self._targets.is_uploading,
        )
        self._hooking = Hooking(spool, hooks, lambda: backlog.known, channels.events)
        self._deliveries = Deliveries(
            spool,
            channels.metrics,
            self._targets,
            backlog,
            finishing,
            self._hooking,
            pace,
            wake=self._changed.set,
            learned=self._memory.learned.set,
            clock=clock,
        )
        self._draining = Draining(channels.drain, self._targets, wake=self._changed.set)
        self._watcher = OutboxWatcher(
            spool, backlog, self._deliveries.is_busy, pace.rescan_secs, self._draining
        )
        self._states = UpstreamStates(
            channels.board, channels.events, self._targets, backlog, clock
        )
        self._adoption = Adoption(
            self._targets, backlog, wake=self._changed.set, list_anew=self._watcher.wake
        )
        self._actions = Actions(
            spool,
            self._targets,
            backlog,
            self._deliveries,
            channels.events,
            wake=self._changed.set,
            list_anew=self._watcher.wake,
        )

    def adopt(self, config: Config) -> None:
        """Works by this configuration from now on. Uploads under way end as they began."""
        self._spool.configure(config)
        self._hooking.adopt(config.hooks)
        self._adoption.adopt(upstreams_of(config))
        self._maintenance.adopt(config)

    def stop(self) -> None:
        """Begins the drain: no new upload starts."""
        self._stopping = True
        self._changed.set()

    async def serve(self) -> None:
        """Runs until stopped; then gives uploads under way a little time, and returns."""
        loop = asyncio.get_running_loop()
        os.set_blocking(self._channels.outbox_wake, False)
        loop.add_reader(self._channels.outbox_wake, self._outbox_changed)
        loop.add_reader(self._channels.stop, self.stop)
        if self._inbox is not None:
            loop.add_reader(self._inbox.descriptor, self._configuration_came, self._inbox)
        chores = [asyncio.create_task(chore) for chore in self._chores()]
        try:
            for chore in chores:
                chore.add_done_callback(self._chore_ended)
            while not self._stopping:
                self._changed.clear()
                self._states.note_change()
                self._deliveries.refuse_orphans()
                times = [self._deliveries.start(target) for target in self._targets]
                self._draining.look()
                wake_at = min((when for when in times if when is not None), default=None)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(wake_at):
                        await self._changed.wait()
                if self._fault is not None:
                    raise self._fault  # ours: the supervisor starts this process again
        finally:
            loop.remove_reader(self._channels.outbox_wake)
            loop.remove_reader(self._channels.stop)
            if self._inbox is not None:
                loop.remove_reader(self._inbox.descriptor)
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            await self._adoption.stop()
            await self._deliveries.stop()
            await self._memory.save(self._targets)
            self._channels.events.flush()

    def _chores(self) -> tuple[Coroutine[None, None, None], ...]:
        """Returns the work beside the uploads. None of it ends by itself."""
        return (
            self._watcher.watch(),
            self._maintenance.run(),
            self._disk_watch.run(),
            self._scrub.run(self._deliveries.reject_damaged),
            self._memory.keep(self._targets),
            self._states.run(),
            *([self._actions.serve(requests)] if (requests := self._channels.actions) else []),
        )

    def _chore_ended(self, chore: asyncio.Task[None]) -> None:
        if not chore.cancelled():
            self._fault = chore.exception()
            self._changed.set()

    def _outbox_changed(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._channels.outbox_wake)
        self._watcher.wake()

    def _configuration_came(self, inbox: Inbox) -> None:
        try:
            for new in inbox.each():
                self.adopt(new.config)
        except Exception as problem:  # ours: the successor begins with the new configuration
            self._fault = problem
            self._changed.set()

    def _envelopes_came(self) -> None:
        self._changed.set()
        self._maintenance.wake()


def run(config: Config, spool: Spool, channels: Channels) -> None:
    """Runs the forked child; returns when the drain is over. Logging is set up by the caller.

    SIGTERM means the same as Channels.stop, unless it is ignored when this is called. The
    supervisor, which drains in order, ignores it, because systemd signals the whole group. SIGINT,
    which a terminal sends to the whole group, is left to the supervisor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spool.take_over("uploader")
    uvloop.run(_main(config, spool, channels))


def log_loop_problem(_: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
    """Logs in one line a problem of a task or a future that is no longer waited for.

    An example is a connection that was reset while its body was sent. asyncio prints a traceback.
    """
    log.get().warning("loop_problem", told=context["message"], exc_info=context.get("exception"))


async def _main(config: Config, spool: Spool, channels: Channels) -> None:
    asyncio.get_running_loop().set_exception_handler(log_loop_problem)
    limits = StorageLimits.of(config, FreeSpace.of(config, channels.metrics))
    uploader = Uploader(upstreams_of(config), spool, channels, limits=limits, hooks=config.hooks)
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, uploader.stop)
    await uploader.serve()
