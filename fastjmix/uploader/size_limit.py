"""Learns the size of the largest envelope that an upstream takes, from its answers.

Guaranteed: 413 teaches a limit, which is below the smallest envelope that got it. An envelope of
that size or more that is delivered shows that the limit was raised, and it is forgotten. No
envelope is refused here for its size: an upstream is asked again. No I/O here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TOO_LARGE: Final = 413
"""Content Too Large (RFC 9110 §15.5.14)."""

_REFUSED: Final = "refused_bytes"
"""Name in the file of facts: the size of the smallest envelope that was too large."""


class SizeLimit:
    """The limit of one upstream. `known` is the result of `dump`."""

    def __init__(self, known: Mapping[str, object]) -> None:
        refused = known.get(_REFUSED)
        usable = isinstance(refused, int) and not isinstance(refused, bool) and refused > 0
        self._refused = refused if usable and isinstance(refused, int) else None

    @property
    def max_envelope_bytes(self) -> int | None:
        """Returns the most bytes that the upstream may take; None when no limit is known."""
        return None if self._refused is None else self._refused - 1

    def record_refused(self, size: int) -> bool:
        """Records an envelope that was too large. Returns True when the limit is lower now."""
        if self._refused is not None and size >= self._refused:
            return False
        self._refused = size
        return True

    def record_taken(self, size: int) -> bool:
        """Records an envelope that was delivered. Returns True when that has lifted the limit."""
        if self._refused is None or size < self._refused:
            return False
        self._refused = None
        return True

    def dump(self) -> dict[str, object]:
        """Returns the limit as JSON values; {} when none is known."""
        return {} if self._refused is None else {_REFUSED: self._refused}
