"""Tells whoever waits for an envelope its outcome.

Wanted: a packer or the API that waits hears each outcome once.
Guaranteed: a datagram to the process that the ticket names, sent for REPORT_SECS while it does not
read; then one line in the log. The disk does not depend on it.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from fastjmix import log
from fastjmix.ipc.channels import Links
from fastjmix.uploader import policy
from fastjmix.uploader.policy import Outcome
from fastjmix.uploader.queue import Waiting

REPORT_SECS: Final = 5.0
"""A process that has not read its outcomes for so many seconds is not waiting for them."""


class Reports:
    """The uploader's ends of `Links.outcomes`."""

    def __init__(self, links: Links) -> None:
        self._outcomes = links.outcomes

    async def send(self, item: Waiting, outcome: Outcome) -> None:
        """Tells the process that waits, if one does."""
        if item.origin is None:
            return
        item.told = True
        datagram = policy.report(outcome, item.id).encode()
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
