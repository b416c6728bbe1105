"""Knows the names in the spool that are ours. Everything else belongs to somebody, and is left
alone.

A name of ours is a canonical UUID with one of our endings, and before it, where a file is not yet
what it is to be, the process that makes it: its successor deletes it. Versions before this one
left that out of some names; what has none is deleted at the next start.
"""

from __future__ import annotations

import re
from typing import Final

from fastjmix.jmix.ids import PATTERN

_sealed = re.compile(rf"({PATTERN})\.(zip|json)")
_unfinished = re.compile(rf"(?:([a-z]+(?:-[0-9]{{1,4}})?)-)?({PATTERN})\.(new|upload|spill|draft)")

ARCHIVE: Final = "envelope.zip"
SEALED: Final = "sealed.zip"
"""An archive in another form than the one that was built, complete: only it counts, once here."""
TICKET: Final = "ticket.json"
"""The ticket of that archive: durable before it."""
SUSPECT: Final = "suspect"
"""An empty file that says that a sync of the archive beside it failed."""

DRAFT_FILES: Final = frozenset(
    (
        "damaged",
        "draft.json",
        "draft.new",
        ARCHIVE,
        "promised",
        SEALED,
        f"{SEALED}.new",
        SUSPECT,
        TICKET,
        "ticket.new",
    )
)
"""Files in a draft's directory, beside files that are being made. Only these are deleted with it: a
new kind of file in a draft has to be named here. (The two with .new are an earlier version's.)"""


def sealed(name: str) -> tuple[str, str] | None:
    """Returns (id, "zip" or "json") of an archive's or a record's name; None for another."""
    found = _sealed.fullmatch(name)
    return (found[1], found[2]) if found else None


def unfinished(name: str) -> tuple[str | None, str, str] | None:
    """Returns (owner, id, ending) of a file that a process is making; None for another name.

    The owner is the name of a process, None where the name does not say it.
    """
    found = _unfinished.fullmatch(name)
    return (found[1], found[2], found[3]) if found else None


def in_draft(name: str) -> bool:
    """True for a file of ours in a draft's directory."""
    if name in DRAFT_FILES:
        return True
    found = unfinished(name)
    return found is not None and found[2] == "new"
