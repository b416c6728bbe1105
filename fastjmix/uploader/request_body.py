"""Reads an archive as the body of a POST, a chunk at a time, and keeps the time that it takes.

Guaranteed: the archive is never held in memory; it is read from the page cache where it is there,
and in a thread where it is not. Each chunk is checked before it is handed over (integrity.py), so
that the last one goes only when every byte was as sealed.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastjmix.failpoints import reach
from fastjmix.spool.reading import open_regular
from fastjmix.uploader.integrity import BodyCheck, Damaged
from fastjmix.uploader.pace import TimeLimits
from fastjmix.uploader.throttle import Throttle


class ArchiveFile:
    """An archive open for reading. It closes with its last user, which may be a thread."""

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._descriptor = open_regular(path)
        self.size = os.fstat(self._descriptor).st_size
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read(self, size: int, offset: int) -> bytes:
        """Reads at most `size` bytes. May wait for the disk. Raises OSError."""
        return os.pread(self._descriptor, size, offset)

    def cached(self, size: int, offset: int) -> bytearray | None:
        """Reads from the page cache without waiting; None when it has nothing. Raises OSError."""
        buffer = bytearray(size)
        try:
            found = os.preadv(self._descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.EOPNOTSUPP):  # not cached; tmpfs and others
                return None
            raise
        del buffer[found:]
        return buffer

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


class RequestBody:
    """The archive, chunk by chunk, and how far it has gone.

    `clock` is the time limit of the exchange. It moves on whenever a chunk has gone, and by
    `answer_secs` when the last one has. The time for which `throttle` delays a chunk does not
    count. `reused` is set when the connection had been used before.
    """

    def __init__(
        self,
        file: ArchiveFile,
        check: BodyCheck,
        limits: TimeLimits,
        answer_secs: float,
        throttle: Throttle,
    ) -> None:
        self._file = file
        self._check = check
        self._limits = limits
        self._answer_secs = answer_secs
        self._throttle = throttle
        self._began: float | None = None
        self.clock: asyncio.Timeout | None = None
        self.size = file.size
        self.offset = 0
        self.problem: OSError | Damaged | None = None
        self.reused = False

    @property
    def whole(self) -> bool:
        """True when the last byte has been handed to the connection."""
        return self.offset == self.size

    def missed_limit(self) -> str:
        """Returns the limit that the body missed, in words, when its clock has run out."""
        assert self._began is not None
        secs, rate = self._limits.stall, self._limits.rate
        if asyncio.get_running_loop().time() >= self._began + self.size / rate:
            return f"slower than {rate:g} bytes a second"
        return f"none for {secs:g} s"

    async def __aiter__(self) -> AsyncIterator[bytes | bytearray]:
        """Yields the chunks.

        The next is asked for when the connection has room, which is the progress.
        """
        while not self.whole:
            self._extend_clock()
            try:
                left = self.size - self.offset
                chunk = await self._next(min(self._throttle.piece_bytes, left))
                self._check.update(chunk)
            except (OSError, Damaged) as problem:
                self.problem = problem
                raise
            await self._delay(len(chunk))
            self.offset += len(chunk)
            yield chunk
            reach("uploader.body")
        self._extend_clock()

    async def _delay(self, size: int) -> None:
        """Waits until the target's limit has room for so many bytes: no fault of the target."""
        secs = self._throttle.book(size, asyncio.get_running_loop().time())
        if secs <= 0:
            return
        if self.clock is not None:
            self.clock.reschedule(None)
        await asyncio.sleep(secs)
        if self._began is not None:
            self._began += secs
        self._extend_clock()

    def _extend_clock(self) -> None:
        if self.clock is None:
            return
        now = asyncio.get_running_loop().time()
        if self.whole:
            self.clock.reschedule(now + self._answer_secs)
            return
        if self._began is None:
            self._began = now
        least = self._began + self.size / self._limits.rate
        self.clock.reschedule(min(now, least) + self._limits.stall)

    async def _next(self, size: int) -> bytes | bytearray:
        chunk: bytes | bytearray | None = self._file.cached(size, self.offset)
        if not chunk:
            chunk = await asyncio.to_thread(self._file.read, size, self.offset)
        if not chunk:
            raise OSError(errno.EIO, "the archive became shorter while it was read")
        return chunk
