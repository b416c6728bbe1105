"""`fastjmix outbox`: the group of its commands.

    choice.py    which envelopes: ids and conditions, the same for all
    changing.py  what retry, hold, release and requeue have in common

Exit codes: 0 done; 1 something was not done, or nothing was found; 2 usage, configuration or
storage; 3 the node does not run, and the command needs it; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

from fastjmix.cli.lazy import Deferred, command_group

COMMANDS: Final = {
    "list": Deferred(
        "fastjmix.cli.outbox.list",
        "List the envelopes that have not arrived, the oldest first.",
    ),
    "show": Deferred(
        "fastjmix.cli.outbox.show",
        "Show what is known of each ID: state, reason, ticket, attempts.",
    ),
    "retry": Deferred(
        "fastjmix.cli.outbox.retry",
        "Send envelopes now, whatever pause they or their upstream are in.",
    ),
    "hold": Deferred(
        "fastjmix.cli.outbox.hold",
        "Keep envelopes from their upstream until they are released.",
    ),
    "release": Deferred(
        "fastjmix.cli.outbox.release",
        "End the hold of envelopes.",
    ),
    "requeue": Deferred(
        "fastjmix.cli.outbox.requeue",
        "Put rejected envelopes back, to be sent again.",
    ),
    "split": Deferred(
        "fastjmix.cli.outbox.split",
        "Make parts of a rejected envelope that was too large.",
    ),
    "export": Deferred(
        "fastjmix.cli.outbox.export",
        "Copy envelopes with their tickets to DIR, for another node.",
    ),
}


command = command_group(
    "outbox",
    COMMANDS,
    "List the envelopes that have not arrived; retry, hold, release, requeue, export them.",
)
