"""Posts alerts to the webhook, in their order.

Guaranteed: at most PENDING_MAX alerts wait; of more the oldest are dropped, with one line in the
log. A post that fails is repeated with a pause that doubles to RETRY_MAX_SECS. An answer of 400 to
499 other than 408, 425 and 429 will not change: that alert is dropped, with a line. No redirect is
followed, and no line shows the URL beyond its host, as a webhook's path is a secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from fastjmix import log
from fastjmix.api.alerts.conditions import conditions
from fastjmix.api.alerts.forms import Alert
from fastjmix.api.alerts.watch import FILE, Watch
from fastjmix.api.node_state import NodeState
from fastjmix.api.warnings import Warnings
from fastjmix.config.tree import AlertSettings
from fastjmix.spool.remembered import Remembered

PENDING_MAX: Final = 256

RETRY_SECS: Final = 1.0
RETRY_MAX_SECS: Final = 300.0

TRANSIENT: Final = (408, 425, 429)
"""Statuses of 400 to 499 after which a repetition may succeed (RFC 9110, 8470, 6585)."""


class Alerts:
    """The alerts of one node: `run` looks every `settings.every_secs`, and posts."""

    def __init__(
        self, settings: AlertSettings, node: str, root: Path, state: NodeState, warnings: Warnings
    ) -> None:
        self._state = state
        self._warnings = warnings
        self._watch = Watch(node, Remembered(root / FILE))
        self._pending: deque[Alert] = deque()
        self._added = asyncio.Event()
        self._look_now, self._post_now = asyncio.Event(), asyncio.Event()
        self._apply(settings)

    def configure(self, settings: AlertSettings, node: str) -> None:
        """Goes by other settings from now on. Alerts that wait go to the new webhook at once;
        without one they are forgotten."""
        self._watch.node = node
        if settings == self._settings:
            return
        self._apply(settings)
        if not self._url:
            self._pending.clear()
        self._look_now.set()
        self._post_now.set()

    def _apply(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._url = settings.webhook_url.reveal()
        self._host = urlsplit(self._url).netloc.rpartition("@")[2]
        self._failing = False

    async def run(self) -> None:
        """Runs until it is cancelled. Without a webhook it waits for one."""
        async with (
            aiohttp.ClientSession(trust_env=False) as session,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(self._look())
            tasks.create_task(self._post(session))

    async def _look(self) -> None:
        while True:
            self._look_now.clear()
            if not self._url:
                await self._look_now.wait()
                continue
            try:
                found = await asyncio.to_thread(conditions, self._state, self._warnings)
                for alert in await asyncio.to_thread(self._watch.look, found, time.time()):
                    self._add(alert)
            except Exception:  # ours: the next look may do better
                log.get().exception("alerts_failed")
            await _at_most(self._look_now, self._settings.every_secs)

    def _add(self, alert: Alert) -> None:
        if not self._url:
            return  # the webhook was removed while it was looked
        if len(self._pending) >= PENDING_MAX:
            dropped = self._pending.popleft()
            log.get().warning("alert_dropped", alert=dropped.condition.key, why="too many wait")
        self._pending.append(alert)
        self._added.set()

    async def _post(self, session: aiohttp.ClientSession) -> None:
        pause = RETRY_SECS
        while True:
            self._added.clear()
            self._post_now.clear()
            if not self._pending:
                await self._added.wait()
                continue
            alert = self._pending[0]
            if await self._try(session, alert):
                pause = RETRY_SECS
                if self._pending and self._pending[0] is alert:
                    self._pending.popleft()
            else:
                changed = await _at_most(self._post_now, pause)
                pause = RETRY_SECS if changed else min(2 * pause, RETRY_MAX_SECS)

    async def _try(self, session: aiohttp.ClientSession, alert: Alert) -> bool:
        """Returns False when the post is to be repeated."""
        body, headers = alert.body(self._settings.format), {"Content-Type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_secs)
        try:
            async with session.post(
                self._url, data=body, headers=headers, allow_redirects=False, timeout=timeout
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ssl.SSLError) as problem:
            self._note_failure(type(problem).__name__)
            return False
        if status < 300:
            if self._failing:
                log.get().info("webhook_resumed", host=self._host)
            self._failing = False
            return True
        if 400 <= status < 500 and status not in TRANSIENT:
            key = alert.condition.key
            log.get().error("alert_dropped", alert=key, why=f"{self._host} answers {status}")
            return True
        self._note_failure(f"status {status}")
        return False

    def _note_failure(self, why: str) -> None:
        """Logs the first failure of a row."""
        if not self._failing:
            log.get().error("webhook_failed", host=self._host, why=why)
        self._failing = True


async def _at_most(event: asyncio.Event, secs: float) -> bool:
    """Waits for an event, but no longer than this. Returns whether it was set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(secs):
            await event.wait()
    return event.is_set()
