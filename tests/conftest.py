"""Where tests keep their files: on a disk. A spool refuses to promise anything in memory (F23)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fastjmix.spool.ground import standing_on

if standing_on(Path(tempfile.gettempdir())) is not None:
    on_disk = Path(__file__).parent.parent / "build" / "tests"
    on_disk.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(on_disk))
