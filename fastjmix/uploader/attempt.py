"""Makes one attempt to deliver an envelope to a target of any kind.

Guaranteed: the archive is examined before its first byte goes. Each attempt counts, and after it
the target may have the envelope.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastjmix.spool import Ticket
from fastjmix.uploader.integrity import Damaged, examine
from fastjmix.uploader.outcome import Disposition, Failure, Kind, Outcome
from fastjmix.uploader.policy import assess_failure
from fastjmix.uploader.queue import Waiting
from fastjmix.uploader.targets.contract import Client, Sealed


async def attempt(client: Client, item: Waiting, archive: Path, ticket: Ticket) -> Outcome:
    """Delivers the envelope, and returns the outcome.

    Raises FileNotFoundError (a person moved the archive), OSError (our disk).
    """
    item.attempts += 1
    try:
        extents = await asyncio.to_thread(examine, archive, ticket)
        sealed = Sealed(item, archive, ticket, extents)
        outcome = await client.deliver(sealed)
        if outcome.disposition is Disposition.VERIFY:
            outcome = await client.verify(sealed, outcome)
        return outcome
    except Damaged as problem:
        return assess_failure(Failure(Kind.DAMAGED, str(problem)))
