"""Tells where an envelope stands: its state, since when, and why.

Wanted: a person who asks for an envelope gets an answer in every state, with the reason.
Guaranteed: nothing is written. The directories are read in the order in which envelopes move, the
way back from rejected/ included, so that one that moves meanwhile is found. A file that is not ours
is not read (reading.py). A rejected archive is whole when its record says so: an upstream has
answered for it, or it was delivered, and it has the recorded size.
Still wrong: the bytes of a rejected archive are not read again, as those of outbox/ and sent/ are
not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fastjmix.errors import DamagedTicket, reason
from fastjmix.spool.holds import Hold, Holds
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import Ticket, moment

Standpoint = Literal["building", "outbox", "held", "rejected", "sent"]
"""A state as a caller sees it: an envelope in outbox/ with a hold beside it is held."""

Directory = Literal["building", "outbox", "rejected", "sent"]

SEARCHED: Final[tuple[Directory, ...]] = ("building", "rejected", "outbox", "sent", "rejected")
"""In the direction in which envelopes move. rejected/ comes twice: a person may move an envelope
from there back to outbox/, and an upstream may refuse one meanwhile."""

REASON_CHARS_MAX: Final = 500
"""Characters of a reason that are given: the record beside the archive has all."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an envelope stands.

    `since` is when it came to this state, in Unix seconds. `reason` says why it is held or was
    rejected, "" in other states. `damage` says why its archive cannot be given, "" for a whole one.
    `size_bytes` is the archive's size now; it grows in building/.
    """

    state: Standpoint
    since: float
    size_bytes: int
    reason: str = ""
    damage: str = ""


def standing(spool: Spool, envelope_id: str, first: Directory = "building") -> Standing | None:
    """Returns where an envelope stands; None when it is nowhere. Looks into `first` first.

    Raises OSError.
    """
    for directory in (first, *SEARCHED):
        if (found := standing_in(spool, directory, envelope_id)) is not None:
            return found
    return None


def standing_in(spool: Spool, directory: Directory, envelope_id: str) -> Standing | None:
    """Returns the same for one directory. Raises OSError."""
    if directory == "building":
        return _draft(spool, envelope_id)
    archive = spool.path(directory, envelope_id)
    if (found := _regular(archive)) is None:
        return None
    record = _regular(archive.with_suffix(".json"))
    since, size = (record or found).st_mtime, found.st_size
    match directory:
        case "outbox" if (hold := Holds(spool).get(envelope_id)) is not None:
            return Standing("held", hold.since, size, _why_held(hold))
        case "rejected":
            return _rejected(spool, envelope_id, since, size)
        case _:
            return Standing(directory, since, size)


def _draft(spool: Spool, envelope_id: str) -> Standing | None:
    leftover = spool.drafts.leftover(envelope_id)
    if leftover is None:
        return None
    since = moment(leftover.recipe.created)
    if since is None:
        try:
            since = leftover.directory.lstat().st_mtime
        except FileNotFoundError:  # it was sealed just now
            return None
    return Standing("building", since, leftover.size)


def _why_held(hold: Hold) -> str:
    words = f"held by {hold.by}" if hold.by else "held"
    return _short(f"{words}: {hold.why}" if hold.why else words)


def _rejected(spool: Spool, envelope_id: str, since: float, size: int) -> Standing:
    try:
        ticket = spool.ticket("rejected", envelope_id)
    except (OSError, DamagedTicket) as problem:
        why = f"its record cannot be read: {reason(problem)}"
        return Standing("rejected", since, size, _short(why), _short(why))
    why = refusal_of(ticket)
    return Standing("rejected", since, size, why, _damage(ticket, why, size))


def refusal_of(ticket: Ticket) -> str:
    """Returns why an envelope was rejected, in words, with each upstream that has refused it
    where there are several; "" when its record does not say."""
    refused = {name: end["refusal"] for name, end in ticket.ends.items() if "refusal" in end}
    if not refused:
        return refusal_in_words(ticket.refusal or {})
    return _short("; ".join(f"{name}: {refusal_in_words(one)}" for name, one in refused.items()))


def refusal_in_words(refusal: Mapping[str, Any]) -> str:
    """Returns the record of a refusal in words; "" when it does not say why."""
    words = str(refusal.get("why") or refusal.get("reason") or "")
    if refusal.get("said"):
        words += f"; it said: {refusal['said']}"
    status = refusal.get("status")
    if type(status) is int:
        words = f"HTTP {status}: {words}" if words else f"HTTP {status}"
    return _short(words)


def _damage(ticket: Ticket, why: str, size: int) -> str:
    """Returns why the archive of a rejected envelope is not whole; "" when it is."""
    answers = [ticket.refusal or {}, *(one for end in ticket.ends.values() for one in end.values())]
    answered = any(type(one.get("status")) is int for one in answers)
    if ticket.receipt is None and not answered:
        return why or "its record says nothing of an upstream's answer"
    if size != ticket.size_bytes:
        return f"it has {size} bytes, and its record says {ticket.size_bytes}"
    return ""


def _regular(path: Path) -> os.stat_result | None:
    """Returns what the system knows of a regular file; None for any other. Raises OSError."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _short(text: str) -> str:
    return text if len(text) <= REASON_CHARS_MAX else f"{text[: REASON_CHARS_MAX - 1]}…"
