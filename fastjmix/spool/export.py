"""Copies envelopes out of a spool, with their tickets and provenance, for another node.

The copy is laid out as a storage directory: outbox/<id>.zip and .json, provenance/<id>.json. The
ticket is that of an envelope that waits: without the refusal, and nobody waits for its outcome.
Guaranteed: no file is replaced. An archive has its name when it, its ticket and its provenance are
on the disk, so that a copy that was cut off has no archive. The archive stays where it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from fastjmix.spool import ends
from fastjmix.spool.files import copied, rename_synced, sync_directory, write_new
from fastjmix.spool.reading import read_small
from fastjmix.spool.states import Spool

OWNER: Final = "export"
"""The owner of unfinished files: a start of the node that gets them deletes what is left."""

PROVENANCE: Final = "provenance"
PROVENANCE_BYTES_MAX: Final = 1 << 28


def export(spool: Spool, envelope_id: str, target: Path) -> int:
    """Copies a sealed envelope to `target`; returns the bytes of its archive.

    Raises FileNotFoundError when it is not here, FileExistsError when the target has it, OSError,
    DamagedTicket.
    """
    opened = spool.open_sealed(envelope_id)
    if opened is None:
        raise FileNotFoundError(errno.ENOENT, "there is no archive of it", envelope_id)
    state, file = opened
    with file:
        ticket = spool.ticket(state, envelope_id)
        if state == "outbox":  # those of several upstreams that have taken it do not get it again
            ticket = replace(ticket, ends=ends.read(spool, ticket))
        ticket = ticket.requeued()
        outbox, origins = target / "outbox", target / PROVENANCE
        for directory in (outbox, origins):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        archive = outbox / f"{envelope_id}.zip"
        if os.path.lexists(archive):
            raise FileExistsError(errno.EEXIST, "the target has it already", str(archive))
        with copied(file.fileno(), outbox, OWNER) as copy:
            with contextlib.suppress(FileNotFoundError):
                origin = spool.root / PROVENANCE / f"{envelope_id}.json"
                text = read_small(origin, PROVENANCE_BYTES_MAX)
                _write(origins / origin.name, text)
            _write(archive.with_suffix(".json"), ticket.dump())
            rename_synced(copy, archive, durable=True)
        sync_directory(target)
        return os.fstat(file.fileno()).st_size


def _write(path: Path, text: bytes) -> None:
    """Writes a file beside the archive; one that an earlier export left without it is replaced."""
    path.unlink(missing_ok=True)
    write_new(path, text, OWNER, durable=True)
