"""Keeps how an envelope for several upstreams has ended at each: outbox/<id>.<n>.ended.

n is the index of the upstream in the ticket. An envelope for one upstream has no such file.
Guaranteed: a file of an earlier stay in outbox/ counts for nothing, since it names its ticket's
origin. A file that cannot be read is treated as a ticket that cannot be read: its envelope waits
for a person.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from fastjmix.errors import DamagedTicket
from fastjmix.spool import names
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import write_new
from fastjmix.spool.lock import FORMAT
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import TICKET_BYTES_MAX, End, Ticket, is_end

ENDED: Final = ".ended"


def read(spool: Directories, ticket: Ticket) -> dict[str, End]:
    """Returns the ends of an envelope in outbox/, by the name of their upstream.

    Those that its ticket has from an earlier stay are among them. Raises OSError, DamagedTicket.
    """
    found = dict(ticket.ends)
    if len(ticket.upstreams) > 1:
        for number, name in enumerate(ticket.upstreams):
            if name not in found and (end := _read_one(spool, ticket, number)) is not None:
                found[name] = end
    return found


def pending(ticket: Ticket, ends: Mapping[str, End]) -> tuple[str, ...]:
    """Returns the upstreams that still have to get an envelope with these ends, in their order.

    While a process waits for the outcome, only the first is.
    """
    left = tuple(name for name in ticket.upstreams if name not in ends)
    return left[:1] if ticket.awaited and not ends else left


def files_of(spool: Directories, ticket: Ticket) -> Iterator[Path]:
    """Yields where the ends of an envelope are, whether they are there or not."""
    for number in range(len(ticket.upstreams)):
        yield _path(spool, ticket.id, number)


def remove_alone(spool: Directories) -> None:
    """Deletes ends whose envelope has left. Raises OSError."""
    with os.scandir(spool.outbox) as entries:
        found = [(entry.path, names.part(entry.name)) for entry in entries]
    for path, part in found:
        if (
            part is not None
            and part[2] == "ended"
            and not os.path.lexists(spool.path("outbox", part[0]))
        ):
            Path(path).unlink(missing_ok=True)


def _path(spool: Directories, envelope_id: str, number: int) -> Path:
    return spool.outbox / f"{envelope_id}.{number}{ENDED}"


def _about(ticket: Ticket, name: str) -> dict[str, object]:
    """Returns the keys by which an end names its envelope's stay in outbox/ and its upstream."""
    return {"upstream": name, "origin": ticket.origin, "sealed_at": ticket.sealed_at}


def _read_one(spool: Directories, ticket: Ticket, number: int) -> End | None:
    """Returns an end; None where there is none for this stay. Raises OSError, DamagedTicket."""
    path = _path(spool, ticket.id, number)
    try:
        text = read_small(path, TICKET_BYTES_MAX)
    except FileNotFoundError:
        return None
    try:
        found: dict[str, Any] = orjson.loads(text)
        end: dict[str, Any] = {k: found[k] for k in ("receipt", "refusal") if k in found}
        if found["format"] != FORMAT or not is_end(end):
            raise TypeError("it has another form")
        about = {key: found[key] for key in ("upstream", "origin", "sealed_at")}
    except (orjson.JSONDecodeError, KeyError, TypeError) as problem:
        raise DamagedTicket(
            f"{path}: does not say how the envelope ended there ({problem!r})",
            "Delete it, and the upstream gets the envelope, perhaps once more.",
        ) from problem
    return end if about == _about(ticket, ticket.upstreams[number]) else None


def write(spool: Directories, ticket: Ticket, name: str, end: End) -> None:
    """Writes an end. Raises OSError, DamagedTicket.

    One of an earlier attempt is kept, one of an earlier stay replaced.
    """
    number = ticket.upstreams.index(name)
    path = _path(spool, ticket.id, number)
    if os.path.lexists(path):
        if _read_one(spool, ticket, number) is not None:
            return
        path.unlink()
    text = {"format": FORMAT, **_about(ticket, name), **end}
    data = orjson.dumps(text, option=orjson.OPT_APPEND_NEWLINE)
    write_new(path, data, spool.owner, durable=spool.durable)
