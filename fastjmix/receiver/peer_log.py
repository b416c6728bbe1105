"""The log lines about peers without an association, so many a second."""

from __future__ import annotations

import time
from typing import Any, Final

from fastjmix import log

LINES_A_SECOND: Final = 50
"""Lines of the log about rejected and aborted peers; the others are counted in one line."""


class PeerLog:
    """Writes LINES_A_SECOND warnings a second at most. `unlisted` counts those not written."""

    def __init__(self) -> None:
        self._log = log.get()
        self._left = LINES_A_SECOND
        self._since = time.monotonic()
        self.unlisted = 0

    def warning(self, event: str, **pairs: Any) -> None:
        """Writes one line, if there is one left for this second."""
        if self._left > 0:
            self._left -= 1
            self._log.warning(event, **pairs)
        else:
            self.unlisted += 1

    def tick(self, now: float) -> None:
        """Begins the next second, with a line that counts those not written in the last."""
        if now - self._since < 1.0:
            return
        if self.unlisted:
            self._log.warning("peers_not_listed", count=self.unlisted)
        self._left, self._since, self.unlisted = LINES_A_SECOND, now, 0
