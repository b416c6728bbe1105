"""Delivers envelopes into a directory, or a share that is mounted there, as <id>.zip.

Guaranteed: an envelope has its name there when all of it is durable; no file is replaced. A file of
that name with the same bytes is the envelope: an earlier attempt has put it there.

    the directory says               disposition
    full (ENOSPC, EDQUOT)            RETRY    pauses the target; there may be room later
    missing, not mounted, forbidden  HELD     a person has to correct it; probed each minute
    no answer, any other error       RETRY    pauses the target: a server that is down
    file too large for it            REFUSED  lower max_envelope_bytes
    another file of that name        REFUSED
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from fastjmix.config import Upstream
from fastjmix.config.tree import DirectoryPlace
from fastjmix.failpoints import reach
from fastjmix.spool import elsewhere
from fastjmix.uploader.outcome import Disposition, Outcome
from fastjmix.uploader.pace import Pace, TimeLimits
from fastjmix.uploader.request_body import ArchiveFile, RequestBody
from fastjmix.uploader.steps import Steps, Stuck
from fastjmix.uploader.targets.contract import Failed, Sealed
from fastjmix.uploader.throttle import Throttle

_T = TypeVar("_T")

WRITE_BYTES: Final = 1 << 20
"""Bytes of one write: each takes a thread, which costs some 50 µs."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ELOOP})


class DirectoryClient:
    """A directory as a target."""

    def __init__(
        self, upstream: Upstream, place: DirectoryPlace, pace: Pace, throttle: Throttle
    ) -> None:
        self._name = upstream.name
        self._place = place
        self._limits: TimeLimits = pace.time_limits
        self._throttle = throttle
        self._steps = Steps(max(upstream.timeout_secs, pace.time_limits.stall))

    @property
    def host(self) -> str:
        """Returns the directory's path."""
        return str(self._place.path)

    async def deliver(self, sealed: Sealed) -> Outcome:
        """Writes an envelope. VERIFY: a file has its name already.

        Raises Damaged, FileNotFoundError, OSError.
        """
        body = sealed.body(self._limits, self._throttle)
        target = self._place.path / sealed.name
        try:
            if await self._step(partial(self._is_taken, target)):
                return _TAKEN
            new = partial(elsewhere.NewFile, target, self._place.file_mode, self._name)
            file = await self._step(new)
            try:
                pieces: list[bytes | bytearray] = []
                async for piece in body:
                    pieces.append(piece)
                    if body.whole or sum(map(len, pieces)) >= WRITE_BYTES:
                        await self._step(partial(file.write, pieces))
                        pieces = []
                await self._step(file.place)
            finally:
                await self._discard(file)
        except Failed as failed:
            return failed.outcome
        reach("uploader.answered")
        return Outcome(Disposition.DELIVERED, "it is in the directory, durably")

    async def verify(self, sealed: Sealed, conflict: Outcome) -> Outcome:
        """Compares the file there with the envelope. Raises as `deliver`."""
        body = sealed.body(self._limits, self._throttle)
        target = self._place.path / sealed.name
        try:
            found = await self._step(partial(_opened, target))
            equal = found is not None and await self._is_equal(found, body)
            if equal:
                await self._step(partial(elsewhere.make_durable, target))
        except Failed as failed:
            return failed.outcome
        if not equal:
            reason = "another file has the envelope's name in the directory"
            return Outcome(Disposition.REFUSED, reason)
        reason = "the directory has this very envelope"
        return Outcome(Disposition.DELIVERED, reason, verified=True)

    async def close(self) -> None:
        """Does nothing: each attempt closes what it opens."""

    async def _is_equal(self, found: ArchiveFile, body: RequestBody) -> bool:
        if found.size != body.size:
            return False
        async for piece in body:
            at = body.offset - len(piece)
            if await self._step(partial(found.read, len(piece), at)) != piece:
                return False
        return True

    def _is_taken(self, target: Path) -> bool:
        """Returns whether something has the name. Raises OSError where nothing can be written."""
        if self._place.require_mount:
            elsewhere.require_mount(self._place.path)
        if not self._place.path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is missing, or no directory")
        return os.path.lexists(target)

    async def _step(self, function: Callable[[], _T]) -> _T:
        """Returns what the function returns. Raises Failed."""
        try:
            return await self._steps.call(function)
        except Stuck as problem:
            reason = f"the directory does not answer: {problem}"
            outcome = Outcome(Disposition.RETRY, reason, shared=True, late=True)
            raise Failed(outcome) from None
        except FileExistsError:
            raise Failed(_TAKEN) from None
        except OSError as problem:
            raise Failed(assess_error(problem)) from problem

    async def _discard(self, file: elsewhere.NewFile) -> None:
        """Deletes an unfinished file, where the directory lets us."""
        try:
            await self._steps.call(file.discard)
        except Stuck:
            return  # the next attempt at this envelope deletes it


def _opened(path: Path) -> ArchiveFile | None:
    """Opens a file; None for something that is no regular file. Raises OSError."""
    if not stat.S_ISREG(path.lstat().st_mode):
        return None
    return ArchiveFile(path)


_TAKEN: Final = Outcome(Disposition.VERIFY, "the directory has a file of the envelope's name")


def assess_error(problem: OSError) -> Outcome:
    """Returns the outcome of a step that failed in the directory."""
    number = problem.errno or 0
    words = problem.strerror or type(problem).__name__
    if number in _FULL:
        reason = f"the directory's disk is full: {words}"
        return Outcome(Disposition.RETRY, reason, shared=True, maybe_stored=False)
    if number in _MISSING:
        reason = f"the directory is not there: {words}; is it mounted?"
        return Outcome(Disposition.HELD, reason, shared=True, maybe_stored=False)
    if number in _FORBIDDEN:
        reason = f"the directory may not be written: {words}"
        return Outcome(Disposition.HELD, reason, shared=True, maybe_stored=False)
    if number == errno.EFBIG:
        reason = "too large a file for the directory's file system: lower max_envelope_bytes"
        return Outcome(Disposition.REFUSED, reason)
    return Outcome(Disposition.RETRY, f"the directory has failed: {words}", shared=True)
