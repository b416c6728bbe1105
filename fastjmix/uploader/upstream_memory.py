"""Keeps what is known of the upstreams (upstream_facts.py) across restarts.

Wanted: a server that reads no chunked body is not tried again at each start.
Guaranteed: what is news is written to FACTS_FILE, in a thread; a file that is missing, damaged or
cannot be written costs what was known, and no delivery.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from fastjmix import log
from fastjmix.spool import Remembered, Spool
from fastjmix.uploader.queue import Target

FACTS_FILE: Final = "upstreams.json"
"""Name of the file in the storage directory."""


class UpstreamMemory:
    """`learned` is set when something may be news."""

    def __init__(self, spool: Spool) -> None:
        self._file = Remembered(spool.root / FACTS_FILE)
        self._known = self._file.load()
        self.learned = asyncio.Event()

    def of(self, url: str) -> Any:
        """Returns what is known of the upstream at a URL; None where nothing is."""
        return self._known.get(url)

    async def keep(self, targets: Sequence[Target]) -> None:
        """Saves what is learned, for ever."""
        while True:
            await self.learned.wait()
            self.learned.clear()
            await self.save(targets)

    async def save(self, targets: Sequence[Target]) -> None:
        """Writes what is known of these upstreams, when it is news."""
        known: dict[str, dict[str, Any]] = {}
        for target in targets:  # two may differ in more than the URL
            if found := target.facts.dump():
                known.setdefault(target.upstream.url, found)
        if known != self._known:
            saved = await asyncio.to_thread(self._file.save, known)
            self._known = known
            if not saved:
                log.get().warning("upstream_facts_not_kept", file=FACTS_FILE)
