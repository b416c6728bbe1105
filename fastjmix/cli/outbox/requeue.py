"""`fastjmix outbox requeue`."""

from __future__ import annotations

from fastjmix.cli.outbox.changing import changing
from fastjmix.ipc.actions import Kind

command = changing(
    Kind.REQUEUE,
    """Put rejected envelopes back, to be sent again.

Put right first what they were rejected for: fastjmix outbox list --rejected.""",
)
