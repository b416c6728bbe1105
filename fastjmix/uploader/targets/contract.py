"""The contract of a target: three methods, whatever its kind.

Guaranteed by each kind: DELIVERED means that the target has every byte as it was sealed; no file
or object of another origin is ever replaced; no word of a peer is in an Outcome's `reason`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fastjmix.spool import Ticket
from fastjmix.uploader.integrity import BodyCheck, Extents
from fastjmix.uploader.outcome import Outcome
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.queue import Waiting
from fastjmix.uploader.request_body import ArchiveFile, RequestBody
from fastjmix.uploader.throttle import Throttle


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope on its way to one target.

    Attributes:
        item: its place in the queue, where a client counts the bodies that it begins.
        archive: its path in outbox/.
        ticket: its ticket.
        extents: what the archive's bytes must be (integrity.py).
    """

    item: Waiting
    archive: Path
    ticket: Ticket
    extents: Extents

    @property
    def name(self) -> str:
        """Returns the name of its file or object at a target that keeps it as such."""
        return f"{self.item.id}.zip"

    def body(self, limits: TimeLimits, throttle: Throttle) -> RequestBody:
        """Opens the archive, to be read and checked once. No answer follows its last byte. Raises
        FileNotFoundError, OSError."""
        file, check = ArchiveFile(self.archive), BodyCheck(self.extents)
        return RequestBody(file, check, limits, 0.0, throttle)


class Failed(Exception):
    """A step at the target failed, and decides the attempt. No fault of our own disk is one."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


class Client(Protocol):
    """A target, as an attempt sees it. One serves all the attempts at its target.

    `host` names the target in a log line: a host and port, or a path; it has no secret in it.
    """

    @property
    def host(self) -> str:
        """Returns where the target is."""
        ...

    async def deliver(self, sealed: Sealed) -> Outcome:
        """Sends an envelope once. VERIFY: the target has something under its name already.

        Raises Damaged (the archive is not what was sealed), FileNotFoundError (a person moved the
        archive), OSError (our disk).
        """
        ...

    async def verify(self, sealed: Sealed, conflict: Outcome) -> Outcome:
        """Returns the outcome of a VERIFY: is it this envelope that the target has?

        Raises as `deliver` does.
        """
        ...

    async def close(self) -> None:
        """Gives back what the client holds. No attempt is under way."""
        ...
