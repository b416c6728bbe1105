"""`fastjmix outbox retry`."""

from __future__ import annotations

from fastjmix.cli.outbox.changing import changing
from fastjmix.ipc.actions import Kind

command = changing(
    Kind.RETRY,
    """Send envelopes now, whatever pause they or their upstream are in.

A hold of the upstream after 401, a wrong URL and the like is lifted, too. An envelope that a person
has put on hold is released first.""",
)
