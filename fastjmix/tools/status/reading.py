"""Reads the status of a node: from itself while it runs, from its files otherwise.

Guaranteed: the object is that of GET /api/node/status (api/admin/status.py), with the same keys.
For a stopped node it has the parts that are files: envelopes, disk, ledger, errors.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final, cast

from fastjmix._version import __version__
from fastjmix.api.admin.status import recent_json
from fastjmix.control.client import ControlClient, NodeAway
from fastjmix.control.node_status import LedgerFacts, NodeStatus, Recent, envelope_parts
from fastjmix.errors import FastjmixError
from fastjmix.ledger.queries import Ledger
from fastjmix.spool.entries import read_entries
from fastjmix.spool.selection import STATES, Selection, select
from fastjmix.spool.tally import Tally, sums_json
from fastjmix.tools.node_storage import opened

STATUS: Final = "/api/node/status"
EVENTS: Final = "/api/node/events"

LISTED_MAX: Final = 100

STOPPED: Final = "stopped"


def read(storage: Path) -> NodeStatus:
    """Returns the status. Raises SpoolError where there is no storage, FastjmixError where the node
    does not answer as it should."""
    try:
        return cast("NodeStatus", ControlClient(storage).get(STATUS))
    except NodeAway as away:
        return _of_files(storage, away.message)


def watch(storage: Path) -> Iterator[NodeStatus]:
    """Yields the status of a running node each second. Raises NodeAway, also when it ends."""
    for event in ControlClient(storage).events(EVENTS):
        yield cast("NodeStatus", event)
    raise NodeAway(f"the fastjmix of {storage} has ended")


def _of_files(storage: Path, why: str) -> NodeStatus:
    with opened(storage) as spool:
        sums = sums_json(Tally(spool).counts())
        selection = Selection()
        entries = read_entries(spool, selection.places)
        rows = list(islice(select(spool, entries, selection), LISTED_MAX))
        found = os.statvfs(storage)
    order = {state: at for at, state in enumerate(STATES)}
    rows.sort(key=lambda row: order[row.state])
    ledger, recent = _of_ledger(storage)
    return {
        "node": {
            "name": "", "version": __version__, "pid": None, "started": None, "now": time.time(),
            "state": STOPPED, "reasons": [why], "warnings": [], "configuration": None,
            "draining": None,
        },
        "associations": [],
        "lanes": {"leased": 0, "total": 0, "stalled": 0},
        "rates": None,
        "envelopes": envelope_parts(sums, [row.as_json() for row in rows]),
        "upstreams": [],
        "disk": {
            "free_bytes": found.f_bavail * found.f_frsize,
            "total_bytes": found.f_blocks * found.f_frsize,
        },
        "ledger": ledger,
        "errors": recent["errors"],
        "rejections": recent["rejections"],
    }  # fmt: skip


def _of_ledger(storage: Path) -> tuple[LedgerFacts, Recent]:
    ledger = Ledger(storage)
    try:
        known: LedgerFacts = {"state": STOPPED, "why": "", "bytes": ledger.info().file_bytes}
    except FastjmixError as problem:
        known = {"state": "unavailable", "why": problem.message}
    return known, recent_json(ledger)
