"""A body on its way from a connection to a file: one buffer fills while another is written.

Wanted: receiving and writing go on at once, and little is left to do when the last byte has come.
Guaranteed: two buffers of PIECE_BYTES, whatever comes; pieces are written in their order; no thread
touches the file once `close` has returned. The disk is told to begin early, so that the fsync(2)
which makes the file durable (the caller's) finds most of it written.
Still wrong: a piece is copied into the buffer first, for it may be of any size.
"""

from __future__ import annotations

import asyncio
from typing import BinaryIO, Final

from isal.isal_zlib import crc32

from fastjmix._core import begin_writeback

PIECE_BYTES: Final = 1 << 20
"""Bytes written at once by a worker thread."""

AHEAD_BYTES: Final = 8 << 20
"""The disk is told of so many at a time."""


class BodyFile:
    """What is `put` is written to `file`, from its start on; `size` and `crc32` are of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._filling = memoryview(bytearray(PIECE_BYTES))
        self._spare = memoryview(bytearray(PIECE_BYTES))
        self._filled = 0
        self._told = 0
        self._writing: asyncio.Future[None] | None = None
        self.size = 0
        self.crc32 = 0

    async def put(self, piece: bytes) -> None:
        """Takes the next bytes; waits while the disk is behind. Raises OSError of earlier ones."""
        view = memoryview(piece)
        while view:
            part = view[: PIECE_BYTES - self._filled]
            self._filling[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]
            if self._filled == PIECE_BYTES:
                await self._hand_over()

    async def flush(self) -> None:
        """Everything is with the kernel when this returns. Raises OSError."""
        if self._filled:
            await self._hand_over()
        await self._written()

    async def close(self) -> None:
        """Waits for the thread that may still write; what it has to say is of no interest."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()  # asked for, so that nobody is told of it

    async def _hand_over(self) -> None:
        await self._written()
        full, self._filling, self._spare = self._filling, self._spare, self._filling
        size, self._filled = self._filled, 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._write, full[:size])

    async def _written(self) -> None:
        if self._writing is not None:
            # Shielded: the thread goes on when the request is cancelled, and `close` waits for it.
            await asyncio.shield(self._writing)
            self._writing = None

    def _write(self, view: memoryview) -> None:
        self.crc32 = crc32(view, self.crc32)
        self._file.write(view)
        self._file.flush()  # here and not in the loop: it may wait for the disk
        self.size += len(view)
        if self.size - self._told >= AHEAD_BYTES:
            begin_writeback(self._file.fileno(), self._told, self.size - self._told)
            self._told = self.size
