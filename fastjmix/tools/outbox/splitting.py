"""Splits an envelope that was too large for its upstream: several of its instances in each part.

Guaranteed: each instance is in one part, with the bytes that it has in the envelope, whose every
hash was compared before. The envelope stays in rejected/. The ids of the parts follow from its id
and the limit: a split that was cut off is completed by doing it again, and nothing is there twice.
One command at a time splits an envelope.
Still wrong: an envelope that is encrypted cannot be split here; disk space is needed once more; a
kill while a part is written leaves a file of a foreign name in building/, which a start names.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fastjmix.config import Builder, Config
from fastjmix.control.client import NodeAway, NodeRefused
from fastjmix.control.peer import Peer
from fastjmix.errors import FastjmixError
from fastjmix.ipc.actions import DONE, Kind
from fastjmix.spool import Remembered, Spool, Ticket
from fastjmix.spool.part import (
    SPLIT_INTO,
    Split,
    alone_with,
    is_here,
    new_part,
    note_split,
    owns,
    part_ticket,
    publish_part,
)
from fastjmix.tools.envelope.building import Instance, make
from fastjmix.tools.envelope.converting import check_hashes, instances_of
from fastjmix.tools.envelope.opening import open_envelope
from fastjmix.tools.envelope.recipe import Recipe
from fastjmix.tools.outbox.acting import act

FACTS_FILE: Final = "upstreams.json"
REFUSED_BYTES: Final = "refused_bytes"
"""Where the uploader keeps the size that got HTTP 413 (uploader/size_limit.py)."""

INSTANCE_BYTES: Final = 1024
"""Bytes of an instance beside its own: headers of the ZIP, entries of the listings."""

DOCUMENTS_BYTES: Final = 16 * 1024
"""Bytes of the documents that do not grow with the instances."""


class SplitError(FastjmixError):
    """The envelope cannot be split as it was asked for."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part: its id, its instances, and its size; `made` False: it was there already."""

    id: str
    instances: int
    size_bytes: int
    made: bool = True

    def as_json(self) -> dict[str, Any]:
        """Returns it for a program."""
        shown = {"id": self.id, "instances": self.instances, "size_bytes": self.size_bytes}
        return {**shown, "made": self.made}


def limit_of(storage: Path, ticket: Ticket) -> int | None:
    """Returns the most bytes of a part: half of the smallest envelope that was too large for an
    upstream which refused this one; None where that is not known. A part that is too large all the
    same teaches a lower limit, and can be split again."""
    refusals = [ticket.refusal or {}, *(end.get("refusal", {}) for end in ticket.ends.values())]
    known = Remembered(storage / FACTS_FILE).load()
    facts = (known.get(str(one.get("url"))) for one in refusals)
    found = [one.get(REFUSED_BYTES) for one in facts if isinstance(one, dict)]
    limits = [size // 2 for size in found if isinstance(size, int)]
    return min(limits, default=None)


def split(
    storage: Path, config: Config, envelope_id: str, max_bytes: int | None, *, dry_run: bool
) -> list[Part]:
    """Makes the parts and puts them into outbox/. `max_bytes` None: what was learnt.

    Raises SplitError, BuildError, EnvelopeError (it is damaged), OSError.
    """
    spool = Spool(storage, create=False)
    with contextlib.ExitStack() as stack:
        if not dry_run:
            if not owns(spool):
                hint = "Run the command as that user."
                raise SplitError("the storage belongs to another user", hint)
            try:
                stack.enter_context(alone_with(spool, envelope_id))
            except BlockingIOError:
                raise SplitError(f"{envelope_id}: another command is splitting it") from None
            except FileNotFoundError:
                raise SplitError(f"{envelope_id}: not in rejected/") from None
        return _split(spool, config, envelope_id, max_bytes, dry_run=dry_run)


def _split(
    spool: Spool, config: Config, envelope_id: str, max_bytes: int | None, *, dry_run: bool
) -> list[Part]:
    try:
        ticket = spool.ticket("rejected", envelope_id)
    except FileNotFoundError:
        raise SplitError(f"{envelope_id}: not in rejected/") from None
    if before := (ticket.refusal or {}).get(SPLIT_INTO):
        raise SplitError(f"{envelope_id}: was split already, into {', '.join(before)}")
    most = max_bytes if max_bytes is not None else limit_of(spool.root, ticket)
    if most is None:
        raise SplitError("no limit of its upstream is known", "Give --max-bytes.")
    archive, recipe = spool.path("rejected", envelope_id), _recipe(config, ticket)
    with open_envelope(archive) as envelope:
        if envelope.encryption is not None:
            raise SplitError(f"{envelope_id}: is encrypted, and no key for it is here")
        check_hashes(envelope)
        instances, left_out = instances_of(envelope)
        if left_out:
            raise SplitError(f"{envelope_id}: {left_out[0].path} is no DICOM instance")
        groups = list(_groups(instances, most))
        if len(groups) < 2:
            raise SplitError(f"{envelope_id}: fits into {most} bytes as it is")
        parts = []
        for number, group in enumerate(groups, 1):
            part = str(uuid.uuid5(uuid.UUID(envelope_id), f"{most}/{number}"))
            if dry_run or is_here(spool, part):
                parts.append(Part(part, len(group), _size(group), made=False))
            else:
                parts.append(_make(spool, ticket, recipe, part, group, most))
    if not dry_run:
        by = Peer(os.getpid(), os.getuid()).named()
        note_split(spool, envelope_id, Split(tuple(part.id for part in parts), by, time.time()))
    return parts


def tell_node(storage: Path, envelope_id: str) -> str:
    """Asks a running node to look at the parts of an envelope at once. Returns why it does not, ""
    when it does, or when none runs: it finds them later, too."""
    try:
        result = act(storage, Kind.NOTE_SPLIT, [envelope_id], "").results[envelope_id]
    except NodeAway:
        return ""
    except NodeRefused as problem:
        return problem.message
    return "" if result == DONE else result


def _make(
    spool: Spool, whole: Ticket, recipe: Recipe, part: str, group: Sequence[Instance], most: int
) -> Part:
    path = new_part(spool)
    try:
        (built,) = make(group, path, recipe, False, lambda _: None, envelope_id=part)
        if built.size_bytes > most:
            raise SplitError(f"a part has {built.size_bytes} bytes", "Give a smaller --max-bytes.")
        ticket = part_ticket(whole, part, size=built.size_bytes, instances=built.instances)
        publish_part(spool, path, ticket, (one.sop_instance for one in group))
    finally:
        path.unlink(missing_ok=True)
    return Part(part, built.instances, built.size_bytes)


def _groups(instances: Sequence[Instance], most: int) -> Iterator[list[Instance]]:
    """Yields instances for one part after the other, in their order. Raises SplitError for one
    that is too large alone."""
    group: list[Instance] = []
    for one in instances:
        if _size([one]) > most:
            raise SplitError(f"the instance {one.sop_instance} alone has {one.size} bytes")
        if group and _size([*group, one]) > most:
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _size(group: Sequence[Instance]) -> int:
    return DOCUMENTS_BYTES + sum(one.size + INSTANCE_BYTES for one in group)


def _recipe(config: Config, ticket: Ticket) -> Recipe:
    """Returns the settings of the pipeline that has made the envelope. Raises SplitError."""
    for listener in config.dicom:
        if listener.pipeline == ticket.pipeline:
            known = (listener.calling or {}).get(ticket.calling_ae)
            return _of(known.builder if known is not None else listener.builder)
    raise SplitError(f"no pipeline {ticket.pipeline} is configured")


def _of(builder: Builder) -> Recipe:
    return Recipe(
        builder.profile,
        builder.digest,
        builder.skip_hashing,
        builder.skip_listing,
        builder.payload_hash,
        builder.published,
    )
