"""Shows one envelope with all that its files and the ledger say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from fastjmix.errors import DamagedTicket, FastjmixError, printable, reason
from fastjmix.ledger.queries import Ledger
from fastjmix.spool import Spool
from fastjmix.spool.at_upstreams import in_words
from fastjmix.spool.selection import Row
from fastjmix.tools.plain_text import age, many, moment, size


def about(storage: Path, row: Row) -> dict[str, Any]:
    """Returns the row, the ticket, and the ledger's story; null for what cannot be read."""
    try:
        trace = Ledger(storage).trace(row.id)
        stories = [one.as_json() for one in trace.envelopes]
        steps = [one.as_json() for one in trace.steps]
    except FastjmixError:
        stories, steps = [], []
    return {
        **row.as_json(),
        "ticket": _ticket(storage, row),
        "ledger": stories[0] if stories else None,
        "steps": steps,
    }


def _ticket(storage: Path, row: Row) -> dict[str, Any] | None:
    if row.state == "building":
        return None
    state = "outbox" if row.state == "held" else row.state
    try:
        ticket: dict[str, Any] = orjson.loads(
            Spool(storage, create=False).ticket(state, row.id).dump()
        )
    except (OSError, DamagedTicket) as problem:
        return {"unreadable": reason(problem)}
    return ticket


def _ends(ticket: dict[str, Any]) -> Iterator[str]:
    """Yields the receipt and the refusal; of several upstreams, those of each."""
    ends = ticket.get("ends") or {"": ticket}
    for upstream, end in ends.items():
        for part in ("refusal", "receipt"):
            for name, value in (end.get(part) or {}).items():
                at = f"{upstream}: " if upstream else ""
                yield printable(f"  {at}{part} {name}: {value}")


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines of one envelope."""
    yield printable(f"{found['id']}: {found['state']} for {age(found['age_secs'])}")
    facts = {
        "reason": found["reason"],
        "study": found["study"],
        "from": found["calling_ae"],
        "to": in_words(found["at_upstreams"]) or found["upstream"],
        "rule": found["rule"],
        "priority": found["priority"],
        "tags": ", ".join(found["tags"]),
        "instances": found["instances"],
        "size": size(found["bytes"]),
    }
    for name, value in facts.items():
        if value:
            yield printable(f"  {name}: {value}")
    if whole := (found["ledger"] or {}).get("part_of"):
        yield f"  a part of {whole}"
    yield from _ends(found["ticket"] or {})
    for attempt in (found["ledger"] or {}).get("attempts", ()):
        status = f"HTTP {attempt['status']}" if attempt["status"] else "no answer"
        told = (
            f"{attempt['outcome']}, {status}, {many(attempt['times'], 'time')}: {attempt['reason']}"
        )
        yield printable(f"  {moment(attempt['last'])} {told}")
