"""Sends an envelope's outcome to the process that waits for it.

Wanted: a packer, or the API, that waits gets each outcome once.
Guaranteed: one datagram to the process that the ticket names. While that process does not read, it
is tried again for REPORT_SECS; then the log gets one line. The disk does not depend on it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from fastjmix import log
from fastjmix.ipc.channels import Channels
from fastjmix.uploader.outcome import Outcome
from fastjmix.uploader.queue import Waiting

REPORT_SECS: Final = 5.0
"""A process that has not read its outcomes for so many seconds is not waiting for them."""


class Reports:
    """The uploader's ends of `Channels.outcomes`."""

    def __init__(self, channels: Channels) -> None:
        self._outcomes = channels.outcomes

    async def send(self, item: Waiting, outcome: Outcome) -> None:
        """Sends the outcome to the process that waits for the envelope, if one does."""
        if item.origin is None:
            return
        item.reported = True
        datagram = outcome.report(item.id).encode()
        link = self._outcomes.get(item.origin)
        problem = "no such process"
        now = asyncio.get_running_loop().time
        deadline = now() + REPORT_SECS
        while link is not None and now() < deadline:
            try:
                link.send(datagram, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                problem = "it does not read"
                await asyncio.sleep(REPORT_SECS / 100)
            except OSError as refused:
                problem = refused.strerror or "closed"
                break
        log.get().warning("outcome_unheard", envelope=item.id, origin=item.origin, problem=problem)
