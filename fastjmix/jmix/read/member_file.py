"""A member of an envelope as a file object, for pydicom.dcmread and its like.

Guaranteed: read-only and seekable; no more than a piece is in memory. The last byte is returned
only after the member's CRC-32 was compared, so that a damaged member is never read to its end.
Still wrong: a member is read from its start only, so seeking back beyond the current piece reads it
again from there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any, Final

BUFFER_BYTES: Final = 1 << 16
"""Bytes of the BufferedReader: a parser's small reads cost a call here once in that many bytes."""


def member_file(name: str, size: int, pieces: Callable[[], Iterator[bytes]]) -> io.BufferedReader:
    """Returns a file object over a member. `pieces` gives its bytes from the start, at each call.

    Its reads raise what `pieces` raises, and ValueError once the envelope is closed.
    """
    return io.BufferedReader(_MemberFile(name, size, pieces), BUFFER_BYTES)


class _MemberFile(io.RawIOBase):
    """The bytes of a member, read from its position on."""

    def __init__(self, name: str, size: int, pieces: Callable[[], Iterator[bytes]]) -> None:
        self.name = name
        self._size = size
        self._pieces = pieces
        self._position = 0
        self._left: Iterator[bytes] = iter(())
        self._piece = b""
        self._start = 0
        self._open_anew()

    def _open_anew(self) -> None:
        self._left, self._piece, self._start = self._pieces(), b"", 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position. Raises ValueError when closed."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, also beyond the end. Raises ValueError before the start."""
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"there is no byte {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills as much of the buffer as the current piece has. Raises EnvelopeError, OSError."""
        self._check_open()
        if not len(buffer) or not self._reach():
            return 0
        at = self._position - self._start
        taken = self._piece[at : at + len(buffer)]
        buffer[: len(taken)] = taken
        self._position += len(taken)
        return len(taken)

    def close(self) -> None:
        """Drops the pieces, and closes."""
        self._left, self._piece = iter(()), b""
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _reach(self) -> bool:
        """Reads on to the piece with the position. Returns whether there is one."""
        if self._position < self._start:
            self._open_anew()
        while self._position >= self._start + len(self._piece):
            end = self._start + len(self._piece)
            piece = self._next(end)
            if not piece:
                return False
            self._start, self._piece = end, piece
        return True

    def _next(self, start: int) -> bytes:
        """Returns the piece at `start`; the last one only after the CRC-32 was compared."""
        try:
            piece = next(self._left, b"")
            if start + len(piece) >= self._size:
                self._left = iter([*self._left])  # nothing follows
        except BaseException:
            self._open_anew()  # a second try fails alike
            raise
        return piece
