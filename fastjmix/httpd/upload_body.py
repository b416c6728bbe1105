"""Writes a request body to a file: one part gathers while another is written.

Wanted: receiving and writing go on at once, and little is left to do when the last byte has come.
Guaranteed: no piece is copied; two parts of PIECE_BYTES and a piece each at most are held, of
PIECES_MAX pieces; they are written in their order; no thread uses the file once `close` has
returned. The disk begins to write early, so that the fsync(2) which makes the file durable (the
caller's) finds most of it written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import BinaryIO, Final

from isal.isal_zlib import crc32

from fastjmix._core import begin_writeback
from fastjmix.spool.files import write_all

PIECE_BYTES: Final = 1 << 20
"""Bytes of a part, which a worker thread writes at once."""

PIECES_MAX: Final = 256
"""Pieces of a part, however small they are."""

AHEAD_BYTES: Final = 8 << 20
"""Bytes between two calls that make the disk begin."""


class BodyFile:
    """A file that is written from its start on, by `put`. `size` and `crc32` are of those bytes.

    Only the descriptor of `file` is used: nothing may wait in a buffer of its own.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._begun = 0
        self._writing: asyncio.Future[None] | None = None
        self.size = 0
        self.crc32 = 0

    async def put(self, piece: bytes) -> None:
        """Takes the next bytes; waits while the disk is behind. Raises OSError of earlier ones."""
        self._gathered.append(piece)
        self._gathered_bytes += len(piece)
        if self._gathered_bytes >= PIECE_BYTES or len(self._gathered) == PIECES_MAX:
            await self._hand_over()

    async def flush(self) -> None:
        """Hands everything to the kernel. Raises OSError."""
        if self._gathered:
            await self._hand_over()
        await self._written()

    async def close(self) -> None:
        """Waits for the thread that may still write, and ignores its error."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
            self._writing.exception()  # retrieved, so that asyncio does not log it

    async def _hand_over(self) -> None:
        await self._written()
        part, self._gathered, self._gathered_bytes = self._gathered, [], 0
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._write, part)

    async def _written(self) -> None:
        if self._writing is not None:
            # Shielded: the thread goes on when the request is cancelled, and `close` waits for it.
            await asyncio.shield(self._writing)
            self._writing = None

    def _write(self, part: Sequence[bytes]) -> None:
        """Writes a part. Runs in a thread, since it may wait for the disk."""
        descriptor = self._file.fileno()
        for piece in part:
            self.crc32 = crc32(piece, self.crc32)
        self.size = write_all(descriptor, part, self.size)
        if self.size - self._begun >= AHEAD_BYTES:
            begin_writeback(descriptor, self._begun, self.size - self._begun)
            self._begun = self.size
