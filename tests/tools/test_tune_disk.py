"""tools/tune/disk.py: a trial waits for a disk that others keep busy."""

from __future__ import annotations

import time
from pathlib import Path

from fastjmix.tools.tune import disk


def test_a_busy_disk_is_awaited_and_reported(tmp_path: Path) -> None:
    work = iter(range(5))
    begun = time.monotonic()

    def counter() -> float:
        return next(work, 5) * 1.0  # a second of work at each look, until there is no more

    assert disk.Disk(tmp_path, counter).wait(20)
    assert time.monotonic() - begun < 10
    assert not disk.Disk(tmp_path, time.monotonic).wait(0.1)
    assert disk.Disk(tmp_path, lambda: None).wait(0)
    disk.Disk(tmp_path).wait(0)  # whatever this machine's disk does
