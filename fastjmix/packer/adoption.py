"""Gives a new configuration to the parts of one packer.

Guaranteed: the rules of an instance are found by the number that its association began with, before
and after. Envelopes that are open keep the rules by which they were opened: instances of the same
study that fall under other rules of packing go to another envelope.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fastjmix.ipc.configuration import NewConfiguration
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.packer.digests import hasher_for
from fastjmix.packer.seal import try_keys
from fastjmix.spool import FreeSpace, Spool

Hashers = list[Callable[[], Any] | None]


class Adoption:
    """The rules of instances by number, and what makes their digests: lists that the parts share,
    and that grow with each configuration."""

    def __init__(self, rows: Sequence[IngestRules], spool: Spool, space: FreeSpace) -> None:
        self.rules: list[IngestRules] = []
        self.hashers: Hashers = []
        self._spool = spool
        self._space = space
        self._add(rows)

    def adopt(self, new: NewConfiguration) -> None:
        """Goes by a new configuration."""
        self._spool.configure(new.config)
        self._space.configure(new.config)
        self._add(new.rules.rows[len(self.rules) :])

    def _add(self, rows: Sequence[IngestRules]) -> None:
        """Adds rules. Logs each key of theirs that cannot be read."""
        try_keys(builder for row in rows for builder in row.builders)
        self.hashers += [hasher_for(row.builder) for row in rows]
        self.rules += rows
