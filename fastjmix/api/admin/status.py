"""Tells how the node is, as one object: what the page and `fastjmix status` show.

Guaranteed: a part that cannot be read is null or empty, and does not keep the others away. It holds
no patient's data but Study Instance UIDs. Errors and rejections come from the ledger, and are read
again when one may have come: every LOOK_SECS.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

from fastjmix._version import __version__
from fastjmix.api.admin.advice import advised
from fastjmix.api.admin.associations import Associations
from fastjmix.api.admin.envelopes import Envelopes
from fastjmix.api.admin.rates import Rates
from fastjmix.api.shared import Shared
from fastjmix.control.node_status import (
    DiskFacts,
    LedgerFacts,
    NodeFacts,
    NodeStatus,
    Recent,
    RejectionFacts,
    envelope_parts,
)
from fastjmix.errors import FastjmixError
from fastjmix.ipc.board_rows import LedgerRow, ledger_row, supervisor_row, upstream_rows
from fastjmix.ledger.queries import Ledger
from fastjmix.ledger.rows import Rejection
from fastjmix.spool import FreeSpace
from fastjmix.spool.selection import STATES, EnvelopeFacts
from fastjmix.spool.tally import UNKNOWN, sums_json

RECENT_MAX: Final = 20
"""Errors, and rejections, that are shown."""

LOOK_SECS: Final = 2.0

_T = TypeVar("_T")


class Status:
    """The status of one node of that name."""

    def __init__(
        self, name: str, shared: Shared, envelopes: Envelopes, ledger: Ledger, rates: Rates
    ) -> None:
        self.name = name
        self._shared = shared
        self._envelopes = envelopes
        self._ledger = ledger
        self._rates = rates
        self._associations = Associations(shared.channels.live)
        self._started = _started(shared.channels.run)
        self._latest: Recent = {"errors": [], "rejections": []}
        self._latest_due = 0.0

    async def as_json(self) -> NodeStatus:
        """Returns the status now. Files are read on a thread."""
        listed = await self._listed()
        return await asyncio.to_thread(self._assembled, listed)

    async def _listed(self) -> list[EnvelopeFacts]:
        try:
            return await self._envelopes.listed()
        except OSError:
            return []

    def _assembled(self, listed: list[EnvelopeFacts]) -> NodeStatus:
        shared, board = self._shared, self._shared.channels.board
        sums = _or(lambda: sums_json(shared.tally.counts()), dict.fromkeys(STATES, UNKNOWN))
        recent = self._recent()
        return {
            "node": self._node(),
            "associations": self._associations.as_json(),
            "lanes": self._associations.lanes_json(),
            "rates": self._rates.as_json(),
            "envelopes": envelope_parts(sums, listed),
            "upstreams": upstream_rows(board),
            "disk": _or(lambda: disk_json(shared.room), None),
            "ledger": _ledger_facts(ledger_row(board)),
            "errors": recent["errors"],
            "rejections": recent["rejections"],
        }

    def _node(self) -> NodeFacts:
        reasons = self._shared.state.not_ready_reasons()
        stopping, row = self._shared.stopping.is_set(), supervisor_row(self._shared.channels.board)
        state = "stopping" if stopping else "not ready" if reasons else "ready"
        return {
            "name": self.name,
            "version": __version__,
            "pid": os.getppid(),
            "started": self._started,
            "now": time.time(),
            "state": state,
            "reasons": reasons,
            "warnings": self._shared.warnings.all(),
            "configuration": row,
            "draining": row["draining"] if row is not None else None,
        }

    def _recent(self) -> Recent:
        if time.monotonic() >= self._latest_due:
            self._latest_due = time.monotonic() + LOOK_SECS
            self._latest = recent_json(self._ledger)
        return self._latest


def recent_json(ledger: Ledger) -> Recent:
    """Returns the latest errors, each with what to do, and the latest rejected associations; none
    where the ledger cannot be read."""
    try:
        errors, rejections = ledger.recent_errors(RECENT_MAX), ledger.recent_rejections(RECENT_MAX)
    except FastjmixError:
        return {"errors": [], "rejections": []}
    return {
        "errors": [advised(one) for one in errors],
        "rejections": [_rejection(one) for one in rejections],
    }


def _rejection(row: Rejection) -> RejectionFacts:
    return {
        "at": row.at,
        "last": row.last,
        "times": row.times,
        "calling_ae": row.calling_ae,
        "called_ae": row.called_ae,
        "peer": row.peer,
        "why": row.why,
    }


def _ledger_facts(row: LedgerRow | None) -> LedgerFacts:
    """Returns the row without its counts for /metrics."""
    if row is None:
        return {}
    return {
        "state": row["state"],
        "why": row["why"],
        "events_behind": row["events_behind"],
        "bytes": row["bytes"],
    }


def disk_json(room: FreeSpace) -> DiskFacts:
    """Returns what is free, and the marks. Raises OSError."""
    found = room.measured()
    inodes = found.inode_marks
    return {
        "free_bytes": found.free,
        "total_bytes": found.total,
        "soft_mark_bytes": found.marks.soft,
        "hard_mark_bytes": found.marks.hard,
        "free_inodes": found.free_inodes if inodes is not None else None,
        "total_inodes": found.total_inodes if inodes is not None else None,
        "soft_mark_inodes": inodes.soft if inodes is not None else None,
        "hard_mark_inodes": inodes.hard if inodes is not None else None,
    }


def _started(run: str) -> float:
    """Returns when the supervisor began, in Unix seconds, by the name of its run."""
    try:
        return int(run, 16) / 1000
    except ValueError:
        return time.time()


def _or(read: Callable[[], _T], otherwise: _T) -> _T:
    try:
        return read()
    except OSError:
        return otherwise
