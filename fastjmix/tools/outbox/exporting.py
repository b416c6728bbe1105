"""Exports envelopes for another node, one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fastjmix.errors import DamagedTicket, reason
from fastjmix.ipc.actions import DONE
from fastjmix.spool import Spool
from fastjmix.spool.export import export


def export_all(storage: Path, ids: Iterable[str], target: Path) -> dict[str, str]:
    """Returns for each envelope "done", or why it was not exported."""
    spool = Spool(storage, create=False)
    results: dict[str, str] = {}
    for envelope_id in ids:
        try:
            export(spool, envelope_id, target)
            results[envelope_id] = DONE
        except (OSError, DamagedTicket) as problem:
            results[envelope_id] = reason(problem)
    return results
