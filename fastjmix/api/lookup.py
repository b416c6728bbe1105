"""Opens an envelope by its id, whatever its state, or says why it cannot be given.

Guaranteed: an archive is open before its state is read, so that it stays whole however it is moved.
An id becomes a file name only when it is a UUID. All of it waits for the disk: it belongs in a
thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import BinaryIO, Final, NamedTuple

from fastjmix.httpd.responses import HttpError
from fastjmix.jmix.ids import canonical_id
from fastjmix.spool import Spool
from fastjmix.spool.standing import Standing, standing, standing_in

STATE: Final = "X-Envelope-State"
"""The header with the state of the envelope in an answer: a Standpoint (spool/standing.py)."""

TRIES: Final = 3
"""Looks for one envelope: it may be sealed between a look for its archive and one for its draft."""


class Found(NamedTuple):
    """One envelope, and its open archive: None while it is being packed."""

    id: str
    standing: Standing
    file: BinaryIO | None

    @property
    def headers(self) -> Mapping[str, str]:
        """Returns the headers that tell the state."""
        return {STATE: self.standing.state}


def find(spool: Spool, envelope_id: str) -> Found:
    """Returns an envelope.

    Raises HttpError: 404 when none has this id, 409 for an archive that is kept because it is
    damaged, 500 when the disk cannot be read.
    """
    if (known := canonical_id(envelope_id)) is not None:
        try:
            for _ in range(TRIES):
                if (found := _look(spool, known)) is not None:
                    return found
        except OSError as problem:
            raise HttpError(500, f"the envelope cannot be read: {problem.strerror}") from None
    raise HttpError(404, "no envelope with this id is here")


def _look(spool: Spool, envelope_id: str) -> Found | None:
    """Raises HttpError 409, OSError."""
    opened = spool.open_sealed(envelope_id)
    if opened is None:
        draft = standing_in(spool, "building", envelope_id)
        return None if draft is None else Found(envelope_id, draft, None)
    directory, file = opened
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(file.close)
        now = standing(spool, envelope_id, directory)
        if now is None or now.state == "building":  # retention took it: it was there all the same
            now = Standing(directory, 0.0, 0)
        if now.damage:
            reason = f"this envelope was rejected and is not given, as it is damaged: {now.damage}"
            raise HttpError(409, reason, {STATE: now.state})
        cleanup.pop_all()
    return Found(envelope_id, now, file)
