"""Where tests keep their files, and the gateway that most of them start.

Files go to a disk: a spool refuses to promise anything in memory (F23).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from gateway import Gateway

from fastjmix.spool.ground import standing_on

if standing_on(Path(tempfile.gettempdir())) is not None:
    on_disk = Path(__file__).parent.parent / "build" / "tests"
    on_disk.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(on_disk))


@pytest.fixture
def start(tmp_path):
    """Starts gateways without an upstream; ends them, and shows their logs when the test fails."""
    started = []

    def one(**parts: str) -> Gateway:
        process = Gateway(tmp_path / "own", 9, **parts)
        started.append(process)
        return process

    yield one
    for process in started:
        process.close()
        print(process.log()[-6000:])
