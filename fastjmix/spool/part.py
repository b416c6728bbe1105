"""Puts a part of a refused envelope into outbox/, and notes in the refusal what it became.

Guaranteed: a part has its provenance and its ticket before its archive is in outbox/; the refused
envelope stays in rejected/ as it is. A part whose id is known already in any state is left alone,
so a split that was cut off can be done again. One process at a time splits an envelope. A running
node finds the part as it finds what a person puts there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix.errors import DamagedTicket
from fastjmix.jmix.ids import is_id
from fastjmix.spool import move, provenance
from fastjmix.spool.export import OWNER
from fastjmix.spool.files import write_again
from fastjmix.spool.provenance import Provenance
from fastjmix.spool.reading import is_file, open_archive
from fastjmix.spool.rename import rename_new
from fastjmix.spool.states import Spool
from fastjmix.spool.ticket import Ticket, is_texts, moment

SPLIT_INTO: Final = "split_into"
"""Name in a refusal: the ids of the parts that the envelope was split into."""

SPLIT_BY: Final = "split_by"
SPLIT_AT: Final = "split_at"
"""Names in a refusal: who has split the envelope, and when, in Unix seconds."""

STATES: Final = ("outbox", "sent", "rejected")


@contextlib.contextmanager
def alone_with(spool: Spool, envelope_id: str) -> Iterator[None]:
    """Lets one process at a time split an envelope in rejected/. The lock ends with its process.

    Raises BlockingIOError while another one does, FileNotFoundError, OSError.
    """
    with open_archive(spool.path("rejected", envelope_id)) as archive:
        fcntl.flock(archive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def new_part(spool: Spool) -> Path:
    """Returns a path for the archive of a part. A start of the node deletes what is left there."""
    spool.owner = OWNER
    return spool.new_upload()


def is_here(spool: Spool, envelope_id: str) -> bool:
    """Returns whether an earlier split has put this part into outbox/, wherever it is now."""
    return any(is_file(spool.path(state, envelope_id)) for state in STATES)


def publish_part(spool: Spool, archive: Path, ticket: Ticket, instances: Iterable[str]) -> None:
    """Moves the archive of a part, which is synced, to outbox/. `instances` are its SOP Instance
    UIDs. Raises FileExistsError, OSError."""
    if (origin := _provenance(spool, whole_of(ticket), ticket.id, set(instances))) is not None:
        provenance.write(spool, origin)
    archive.chmod(0o600)
    # Its id is in building/ before its ticket is alone in outbox/: see Sweep.
    coming = spool.building / f"{OWNER}-{ticket.id}.upload"
    coming.unlink(missing_ok=True)  # of a split that was cut off here
    rename_new(archive, coming)
    move.publish(spool, coming, ticket, durable=True)


class Split(NamedTuple):
    """A split of an envelope: the ids of the parts, who has made it, and when, in Unix seconds."""

    parts: tuple[str, ...]
    by: str
    at: float


def note_split(spool: Spool, envelope_id: str, split: Split) -> None:
    """Notes in the refusal of an envelope which parts it has become. Raises OSError,
    DamagedTicket."""
    ticket = spool.ticket("rejected", envelope_id)
    told = {SPLIT_INTO: list(split.parts), SPLIT_BY: split.by, SPLIT_AT: split.at}
    noted = replace(ticket, refusal={**(ticket.refusal or {}), **told})
    write_again(spool.rejected / f"{envelope_id}.json", noted.dump(), OWNER, durable=True)


def split_of(ticket: Ticket) -> Split | None:
    """Returns the split that was noted in the refusal of an envelope; None where none is."""
    refusal = ticket.refusal or {}
    named = refusal.get(SPLIT_INTO, [])
    parts = tuple(filter(is_id, named)) if is_texts(named) else ()
    at = moment(refusal.get(SPLIT_AT))
    return Split(parts, str(refusal.get(SPLIT_BY)), at) if parts and at is not None else None


TAG: Final = "part-of-"
"""How the tag of a part begins that names the envelope which it was made of."""


def part_ticket(whole: Ticket, part: str, *, size: int, instances: int) -> Ticket:
    """Returns the ticket of a part: for the upstreams that have not taken the whole."""
    took = {name for name, end in whole.ends.items() if "receipt" in end}
    left = tuple(name for name in whole.upstreams if name not in took)
    return replace(
        whole.unended(),
        id=part,
        upstreams=left or whole.upstreams,
        ack="stored",
        instances=instances,
        size_bytes=size,
        crc32=None,
        tags=(*whole.tags, f"{TAG}{whole.id}"),
    )


def whole_of(ticket: Ticket) -> str:
    """Returns the id of the envelope that a part was made of; "" for one that is no part."""
    named = (tag.removeprefix(TAG) for tag in reversed(ticket.tags) if tag.startswith(TAG))
    return next(filter(is_id, named), "")


def _provenance(spool: Spool, whole: str, part: str, instances: set[str]) -> Provenance | None:
    """Returns what the provenance of the whole says of a part; None where there is none."""
    path = provenance.path_of(spool, whole)
    try:
        found = Provenance.load(path.read_bytes(), str(path))
    except (OSError, DamagedTicket):
        return None
    kept = tuple(one for one in found.instances if one.sop_instance_uid in instances)
    return replace(found, id=part, instances=kept)


def owns(spool: Spool) -> bool:
    """Returns whether files of this process are the node's own: made by the same user."""
    return spool.outbox.stat().st_uid == os.geteuid()
