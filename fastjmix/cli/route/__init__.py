"""`fastjmix route`: the group of its commands.

Exit codes: 0 done; 2 usage or configuration; 130 interrupted.
"""

from __future__ import annotations

from typing import Final

from fastjmix.cli.lazy import Deferred, command_group

COMMANDS: Final = {
    "explain": Deferred(
        "fastjmix.cli.route.explain",
        "Say by which rule the instance in FILE would go, and why by no earlier one.",
    ),
}


command = command_group("route", COMMANDS, "Look at the rules of a configuration.")
