"""The limits of what is read, as an option sets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastjmix.jmix.limits import Limits


def limits_of(max_bytes: int | None) -> Limits:
    """Returns the limits with this many bytes, unpacked, or the default ones."""
    from fastjmix.jmix.limits import DEFAULT_LIMITS, Limits

    return DEFAULT_LIMITS if max_bytes is None else Limits(max_unpacked_bytes=max_bytes)
