"""Puts an archive of outbox/ back that a command of the site has deleted or replaced.

Wanted: no acknowledged instance is lost because a hook removes the file that it was shown.
Guaranteed: the archive is open while the command runs. When its path does not lead to it
afterwards, its bytes are copied from the descriptor, durably, and get the path again; a file that
the command has put there is replaced, as it is no archive of ours.
Still wrong: what a command writes into the archive itself cannot be undone; nor is an archive put
back when its process is killed before, or when there is no space for the copy.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

from fastjmix.spool.files import copied, sync_directory
from fastjmix.spool.linked import identity, leads_to
from fastjmix.spool.reading import open_regular
from fastjmix.spool.states import Spool


class ShownArchive:
    """The archive of an envelope in outbox/, open. A context manager, which closes it."""

    def __init__(self, spool: Spool, envelope_id: str) -> None:
        """Opens it. Raises OSError."""
        self._spool = spool
        self.path = spool.path("outbox", envelope_id)
        self._descriptor = open_regular(self.path)
        self._before = self._facts()

    @property
    def is_in_place(self) -> bool:
        """Returns whether its path leads to it. Raises OSError."""
        return leads_to(self.path, identity(self._descriptor))

    @property
    def is_changed(self) -> bool:
        """Returns whether somebody has written to it. Raises OSError."""
        return self._facts() != self._before

    def put_back(self) -> None:
        """Writes its bytes to its path again. Raises OSError."""
        with copied(self._descriptor, self._spool.outbox, self._spool.owner) as copy:
            copy.replace(self.path)
        sync_directory(self._spool.outbox)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    def _facts(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns
