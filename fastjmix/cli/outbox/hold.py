"""`fastjmix outbox hold`."""

from __future__ import annotations

from fastjmix.cli.outbox.changing import changing
from fastjmix.ipc.actions import Kind

command = changing(
    Kind.HOLD,
    """Keep envelopes from their upstream until they are released.

A hold survives restarts. An envelope that is being sent now, or whose sender waits for the
upstream's answer, is left as it is.""",
)
