"""Spreads the bytes that go to one target over time. Reads no clock."""

from __future__ import annotations

from typing import Final

PIECE_BYTES_MAX: Final = 256 * 1024
"""Bytes of the archive in one read and one write: large enough that Python's share of the work is
small (1 ms of it moves 10 MB), small enough that four uploads hold a few MB."""

PIECE_BYTES_MIN: Final = 1024

PIECES_A_SECOND: Final = 8
"""Pieces that go in a second to a target with a limit: a line that carries voice, too, gets none of
its bytes in bursts of a second."""


class Throttle:
    """The limit of one target, for all that goes there. `bytes_per_sec` None: there is none."""

    def __init__(self, bytes_per_sec: int | None) -> None:
        self._rate = bytes_per_sec
        self._booked_until = float("-inf")

    @property
    def piece_bytes(self) -> int:
        """Returns how many bytes may go at once."""
        if self._rate is None:
            return PIECE_BYTES_MAX
        return max(PIECE_BYTES_MIN, min(PIECE_BYTES_MAX, self._rate // PIECES_A_SECOND))

    def book(self, size: int, now: float) -> float:
        """Books `size` bytes behind those that are booked. Returns the seconds to wait before they
        go. `now` is of a monotonic clock."""
        if self._rate is None:
            return 0.0
        begin = max(now, self._booked_until)
        self._booked_until = begin + size / self._rate
        return begin - now
