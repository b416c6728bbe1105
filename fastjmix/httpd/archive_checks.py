"""Checks posted archives, a few at a time.

Wanted: archives that are cheap to send and costly to check fill no memory, however many come.
Guaranteed: one process runs no more than CHECKS_AT_ONCE; the others wait in the order in which they
came whole. A check runs in a thread, and its turn ends with it, also when its request has ended.
"""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO, Final

from fastjmix.jmix.read.admission import EnvelopeSummary, check_envelope

CHECKS_AT_ONCE: Final = 2
"""A check takes 0.3 GB at the most, and reads a large archive for minutes. Two of them fit beside
the gateway on a small machine, and a long one does not delay all others."""


class Checks:
    """The turns of one process. Must be made and used in one event loop."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def check(self, file: BinaryIO, **options: Any) -> EnvelopeSummary:
        """Checks an archive, with the options of check_envelope. Raises EnvelopeError, OSError."""
        async with self._turns:
            work = asyncio.create_task(asyncio.to_thread(check_envelope, file, **options))
            try:
                return await asyncio.shield(work)
            finally:
                await asyncio.wait([work])
