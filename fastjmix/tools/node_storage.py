"""Opens the storage directory of a node for commands that read it; the node runs, or it does not.

Guaranteed: nothing is created or changed there, and the node's lock is not touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fastjmix.errors import SpoolError
from fastjmix.spool import Spool


@contextlib.contextmanager
def opened(storage: Path) -> Iterator[Spool]:
    """Lends the spool of a storage directory. Raises SpoolError for an OSError of the block."""
    try:
        yield Spool(storage, create=False)
    except OSError as problem:
        raise SpoolError(
            f"{storage}: no storage of a fastjmix can be read there: {problem.strerror}",
            "Check -c or --storage, and run as the user of the node, or as root.",
        ) from problem
