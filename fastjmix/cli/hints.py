"""Replaces the arguments that a hint of the library names by options of the command line.

A hint is written once, for a caller of the Python API. A user of the command line reads it with
options in place of arguments.
"""

from __future__ import annotations

from typing import Final

OPTIONS: Final = {
    "force=True": "--force",
    "leave_out=True": "--leave-out",
    "secs=": "--max-secs",
    "limit=": "--max-bytes",
    "token=": "--token-file",
    "directory=": "--dir",
    "out=": "-o",
    "published=": "--sender and --receiver, or -c with a configuration that has them",
}
"""Option by argument, in the spelling of hints."""


def for_shell(hint: str) -> str:
    """Returns the hint with options in place of arguments."""
    for argument, option in OPTIONS.items():
        hint = hint.replace(argument, option)
    return hint
