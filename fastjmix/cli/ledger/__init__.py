"""`fastjmix ledger`: the group of its commands.

Exit codes: 0 done; 1 there is no ledger, it cannot be read, or a node writes it; 2 usage or
configuration; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

from fastjmix.cli.lazy import Deferred, command_group

COMMANDS: Final = {
    "info": Deferred(
        "fastjmix.cli.ledger.info",
        "Show what the ledger holds: envelopes by state, instances, associations, its size.",
    ),
    "rebuild": Deferred(
        "fastjmix.cli.ledger.rebuild",
        "Make the ledger from the envelopes on the disk, while no node runs.",
    ),
}


command = command_group(
    "ledger",
    COMMANDS,
    "Show the ledger of a node, or make it anew from the files.",
)
