"""`fastjmix outbox release`."""

from __future__ import annotations

from fastjmix.cli.outbox.changing import changing
from fastjmix.ipc.actions import Kind

command = changing(
    Kind.RELEASE,
    """End the hold of envelopes.""",
)
