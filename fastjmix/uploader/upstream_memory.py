"""Keeps the facts about upstreams (upstream_facts.py) across restarts.

Wanted: a server that reads no chunked body is not tried again at each start.
Guaranteed: changes are written to FACTS_FILE, in a thread. A file that is missing, damaged or
cannot be written costs the facts, and no delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from fastjmix import log
from fastjmix.spool import Remembered, Spool
from fastjmix.uploader.target import Target

FACTS_FILE: Final = "upstreams.json"
"""Name of the file in the storage directory."""


class UpstreamMemory:
    """The facts on disk. `learned` is set when some may have changed."""

    def __init__(self, spool: Spool) -> None:
        self._file = Remembered(spool.root / FACTS_FILE)
        self._known = self._file.load()
        self.learned = asyncio.Event()

    def of(self, url: str) -> Mapping[str, object] | None:
        """Returns the facts about the upstream at a URL; None where there are none."""
        found = self._known.get(url)
        return found if isinstance(found, dict) else None

    async def keep(self, targets: Iterable[Target]) -> None:
        """Saves the facts whenever they change."""
        while True:
            await self.learned.wait()
            self.learned.clear()
            await self.save(targets)

    async def save(self, targets: Iterable[Target]) -> None:
        """Writes the facts about these upstreams, if they changed."""
        known: dict[str, dict[str, object]] = {}
        for target in targets:  # two may differ in more than the URL
            if found := target.facts.dump():
                known.setdefault(target.upstream.url, found)
        if known != self._known:
            saved = await asyncio.to_thread(self._file.save, known)
            self._known = known
            if not saved:
                log.get().warning("upstream_facts_not_kept", file=FACTS_FILE)
