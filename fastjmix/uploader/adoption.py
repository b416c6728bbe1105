"""Takes over another configuration while envelopes wait and are uploaded.

Wanted: a new token, or another address, delivers at once what waited for it.
Guaranteed: an upload under way ends as it began, at the old address and with the old credentials;
the connections of its target are closed when the last of them is over. An envelope that it did not
deliver goes at once, to where the new configuration sends it. An upstream that was changed is
neither paused nor held. The envelopes of one that was removed stay in outbox/, and go when it is
configured again. A configuration that changes no upstream changes nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import fields

from fastjmix import log
from fastjmix.config import Upstream
from fastjmix.uploader.backlog import Backlog
from fastjmix.uploader.target import Place, Target, Targets


class Adoption:
    """Changes the targets of one uploader.

    `wake` starts what may start, `list_anew` lists outbox/.
    """

    def __init__(
        self,
        targets: Targets,
        backlog: Backlog,
        *,
        wake: Callable[[], None],
        list_anew: Callable[[], None],
    ) -> None:
        self._targets = targets
        self._backlog = backlog
        self._wake = wake
        self._list_anew = list_anew
        self._ending: set[asyncio.Task[None]] = set()

    def adopt(self, upstreams: Mapping[Place, Upstream]) -> None:
        """Makes these the upstreams from now on."""
        changes = self._targets.adopt(upstreams)
        lines = log.get()
        for target in changes.added:
            lines.info("upstream_added", upstream=target.upstream.name, host=target.client.host)
        for old, new in changes.replaced:
            changed = ", ".join(_changed(old.upstream, new.upstream))
            name, host = new.upstream.name, new.client.host
            lines.info("upstream_changed", upstream=name, host=host, keys=changed)
            self._backlog.replace(old, new)
            self._end(old)
        for target in changes.removed:
            waiting = len(target.queue)
            lines.info("upstream_removed", upstream=target.upstream.name, waiting=waiting)
            self._end(target)
        if changes.added or changes.removed:
            self._reroute(*changes.removed)
        self._wake()

    async def stop(self) -> None:
        """Leaves the connections of old targets to the end of the process."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _reroute(self, *removed: Target) -> None:
        self._backlog.reroute(*removed)
        self._list_anew()

    def _end(self, target: Target) -> None:
        task = asyncio.create_task(self._see_off(target))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _see_off(self, target: Target) -> None:
        """Waits for the uploads of an old target, and closes its connections.

        An envelope that comes back from it has waited for the wrong upstream.
        """
        while running := dict(target.running):
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                running[task].forget_failures()
            if any(target.queue is one.queue for one in self._targets):
                target.queue.expedite({running[task].key for task in done})
            else:
                self._reroute(target)
            self._wake()
        self._targets.end(target)
        await target.client.close()


def _changed(before: Upstream, after: Upstream) -> list[str]:
    """Returns the names of the fields that differ. Their values may be secrets."""
    names = [field.name for field in fields(Upstream)]
    return [name for name in names if getattr(before, name) != getattr(after, name)]
