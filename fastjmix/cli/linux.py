"""Whether fastjmix can run on this system."""

from __future__ import annotations

import platform
import re
import sys
from typing import Final

from fastjmix.errors import PlatformError

OLDEST_KERNEL: Final = (5, 4)
"""memfd seals, MADV_REMOVE on shared memory and pidfd are used as this kernel has them."""


def require_linux() -> None:
    """Raises PlatformError unless this is Linux, new enough."""
    check_release(sys.platform, platform.release())


def check_release(system: str, release: str) -> None:
    """Raises PlatformError unless this is Linux, new enough. `release` is that of uname(2)."""
    needed = ".".join(map(str, OLDEST_KERNEL))
    if system != "linux":
        hint = "Run it in a Linux virtual machine or container."
        raise PlatformError(f"fastjmix needs Linux {needed} or newer; this is {system}", hint)
    numbers = re.match(r"(\d+)\.(\d+)", release)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_KERNEL:
        raise PlatformError(f"fastjmix needs Linux {needed} or newer; this is {release}")
