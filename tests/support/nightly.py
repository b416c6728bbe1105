"""Which form a long test has: fast with `make test`, thorough with `make test-nightly`."""

from __future__ import annotations

import os
from typing import TypeVar

T = TypeVar("T")

NIGHTLY = os.environ.get("FASTJMIX_NIGHTLY") == "1"


def by_form(fast: T, nightly: T) -> T:
    """How long, how often or how much, in the form that is running."""
    return nightly if NIGHTLY else fast
