"""Checks posted archives, a few at a time.

Wanted: archives that are cheap to send and costly to check fill no memory, however many come.
Guaranteed: of one process no more than CHECKS_AT_ONCE are under way; the others wait for their
turn, in the order in which they came whole. A check runs in a thread, and ends before its turn
does, also when nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
from typing import Any, BinaryIO, Final

from fastjmix.jmix.read.admission import EnvelopeSummary, check_envelope

CHECKS_AT_ONCE: Final = 2
"""A check takes 0.3 GB at the most, and reads a large archive for minutes. Two of them fit beside
the gateway on a small machine, and a long one does not keep the others back."""


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
