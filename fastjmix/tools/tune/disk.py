"""Whether the disk is idle: writes of others during a round would count for its setting.

Guaranteed: waits no longer than the caller allows, and returns whether the disk was idle then.
Still wrong: below a layer that is no block device (overlay, tmpfs, NFS) the pressure of all disks
together counts (/proc/pressure/io), or, in an old kernel, nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

LOOK_SECS: Final = 0.02
"""For so long the disk is observed: some ticks of the kernel's clock."""

BUSY: Final = 0.3
"""The disk is busy when requests were under way in this part of the time."""


class Disk:
    """The disk of a directory. `counter` is for tests: seconds of work so far, None: unknown."""

    def __init__(self, directory: Path, counter: Callable[[], float | None] | None = None) -> None:
        device = directory.stat().st_dev
        self._stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        self._counter = counter or self._worked

    def wait(self, secs: float) -> bool:
        """Waits until it is idle, `secs` at most; returns whether it is, as far as can be known."""
        deadline = time.monotonic() + secs
        while not self._is_idle():
            if time.monotonic() >= deadline:
                return False
        return True

    def _is_idle(self) -> bool:
        before, began = self._counter(), time.monotonic()
        if before is None:
            return True
        time.sleep(LOOK_SECS)
        after = self._counter()
        return after is None or after - before < BUSY * (time.monotonic() - began)

    def _worked(self) -> float | None:
        """Returns seconds with requests under way (Linux Documentation/block/stat.rst, field 10),
        or in which a task waited for any disk."""
        try:
            return int(self._stat.read_text().split()[9]) / 1e3
        except (OSError, IndexError, ValueError):
            pass
        try:
            line = Path("/proc/pressure/io").read_text().splitlines()[0]
            return int(line.rpartition("=")[2]) / 1e6
        except (OSError, IndexError, ValueError):
            return None
