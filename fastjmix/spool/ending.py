"""Records how an envelope for several upstreams ends at each, and moves it after the last end.

Guaranteed: an end is durable when `record` returns. The last end is not written to a file of its
own: it moves the archive, and the record beside the archive has all of them. A kill leaves an end
that was recorded, or none, and then its upstream is asked once more.
While the disk cannot take an end, it is kept in memory, and counts when the others come: an
envelope that every upstream has leaves a full disk, and makes room.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from typing import Literal

from fastjmix.errors import DamagedTicket
from fastjmix.failpoints import reach
from fastjmix.spool import ends as ends_files
from fastjmix.spool.directories import State
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import End, Ticket

Place = State | Literal["gone"]
"""Where an envelope is after a step."""


class Ends:
    """The ends that one process records. Any thread may call it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        self._unwritten: dict[str, dict[str, End]] = {}

    def record(self, envelope_id: str, new: Mapping[str, End], *, last: bool = False) -> Place:
        """Records ends of an envelope for several upstreams; returns where it is then.

        When each upstream has ended, or `last` says that no other will get it, it moves to sent/,
        or to rejected/ when one has refused it. "gone": it had left with these ends already. Raises
        OSError, DamagedTicket: the caller repeats it. Raises FileNotFoundError when it is nowhere.
        """
        with self._lock:
            try:
                ticket = self._spool.ticket("outbox", envelope_id)
            except FileNotFoundError:
                self._unwritten.pop(envelope_id, None)
                if self._has_left(envelope_id, new):
                    return "gone"
                raise
            unwritten = self._unwritten.setdefault(envelope_id, {})
            unwritten.update(new)
            ends = {**ends_files.read(self._spool, ticket), **unwritten}
            if last or all(name in ends for name in ticket.upstreams):
                state: Place = self._leave(ticket, ends)
            else:
                for name in new:
                    ends_files.write(self._spool, ticket, name, new[name])
                reach("end.recorded")
                state = "outbox"
            for name in new:
                unwritten.pop(name)
            if not unwritten or state != "outbox":
                del self._unwritten[envelope_id]
            return state

    def _has_left(self, envelope_id: str, new: Mapping[str, End]) -> bool:
        """Returns whether a record in sent/ or rejected/ has these ends. Raises OSError."""
        states: tuple[State, ...] = ("sent", "rejected")
        for state in states:
            with contextlib.suppress(FileNotFoundError, DamagedTicket):
                return new.keys() <= self._spool.ticket(state, envelope_id).ends.keys()
        return False

    def _leave(self, ticket: Ticket, ends: dict[str, End]) -> State:
        """Moves an envelope with all its ends, and deletes the files of those. Raises OSError."""
        ordered = {name: ends[name] for name in ticket.upstreams if name in ends}
        refusals = [end["refusal"] for end in ordered.values() if "refusal" in end]
        reach("end.last")
        state: State = "rejected" if refusals else "sent"
        if refusals:
            self._spool.reject(ticket.id, refusals[0], ordered)
        else:
            receipts = [end["receipt"] for end in ordered.values()]
            self._spool.deliver(ticket.id, receipts[0], ordered)
        reach("end.moved")
        with contextlib.suppress(OSError):  # what is left is deleted by the next uploader
            for path in ends_files.files_of(self._spool, ticket):
                path.unlink(missing_ok=True)
        return state
