"""Recognizes the names in the spool that are ours. No other file is touched.

A name of ours is an id (jmix/ids.py) with one of our endings. The name of an unfinished file begins
with the process that makes it, whose successor deletes it. Earlier versions left the process out of
some names; the next start deletes those files.
"""

from __future__ import annotations

import re
from typing import Final

from fastjmix.jmix.ids import PATTERN

_sealed = re.compile(rf"({PATTERN})\.(zip|json|hold)")
_part = re.compile(rf"({PATTERN})\.(0|[1-9][0-9]?)\.(ended|hold)")
_unfinished = re.compile(rf"(?:([a-z]+(?:-[0-9]{{1,4}})?)-)?({PATTERN})\.(new|upload|spill|draft)")

ARCHIVE: Final = "envelope.zip"
SEALED: Final = "sealed.zip"
"""An archive in another form than the one that was built. It is complete, and only it counts."""
TICKET: Final = "ticket.json"
"""The ticket of that archive, durable before it."""
SUSPECT: Final = "suspect"
"""An empty file. It means that a sync of the archive beside it failed."""

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
"""Files in a draft's directory, beside unfinished files. Only these are deleted with it: a new kind
of file in a draft has to be named here. (The two with .new are an earlier version's.)"""


def sealed(name: str) -> tuple[str, str] | None:
    """Returns (id, "zip", "json" or "hold") of an archive's, a record's or a hold's name; None for
    another."""
    found = _sealed.fullmatch(name)
    return (found[1], found[2]) if found else None


def part(name: str) -> tuple[str, int, str] | None:
    """Returns (id, number of the upstream, "ended" or "hold") of a file in outbox/ about an
    envelope at one of several upstreams; None for another name."""
    found = _part.fullmatch(name)
    return (found[1], int(found[2]), found[3]) if found else None


def unfinished(name: str) -> tuple[str | None, str, str] | None:
    """Returns (owner, id, ending) of an unfinished file; None for another name.

    The owner is the name of a process; None where the name has none.
    """
    found = _unfinished.fullmatch(name)
    return (found[1], found[2], found[3]) if found else None


def in_draft(name: str) -> bool:
    """Returns True for the name of a file of ours in a draft's directory."""
    if name in DRAFT_FILES:
        return True
    found = unfinished(name)
    return found is not None and found[2] == "new"
