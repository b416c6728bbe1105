"""Holds back what a running node cannot change: it stays as it is until the next start.

Wanted: one key that needs a restart does not keep the others from being applied.
Guaranteed: the tree that is applied fits the lanes, the processes and the storage that there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from fastjmix.config import Config, DicomListener
from fastjmix.supervisor.memory import LANE_PDUS, Plan


def held_back(running: Config, new: Config, plan: Plan) -> tuple[Config, tuple[str, ...]]:
    """Returns the new configuration as far as it can be applied, and the keys that cannot."""
    keys = [*_differing(running, new)]
    most = plan.lane_bytes // LANE_PDUS
    if any(listener.max_pdu > most for listener in new.dicom):
        keys.append(f"endpoints.*.options.max_pdu (above {most})")
    if sum(listener.max_associations for listener in new.dicom) > plan.wanted:
        keys.append(f"endpoints.*.options.max_associations (above {plan.wanted} together)")
    runtime = dataclasses.replace(
        new.runtime,
        receivers=running.runtime.receivers,
        packers=running.runtime.packers,
        lane_bytes=running.runtime.lane_bytes,
    )
    applied = dataclasses.replace(
        new,
        storage_dir=running.storage_dir,
        create_storage=running.create_storage,
        require_mount=running.require_mount,
        runtime=runtime,
        dicom=tuple(_fitting(listener, most) for listener in new.dicom),
    )
    return applied, tuple(keys)


def _differing(running: Config, new: Config) -> Iterator[str]:
    """Yields the keys of the whole node that were changed and cannot be."""
    for name in ("receivers", "packers", "lane_bytes"):
        if getattr(running.runtime, name) != getattr(new.runtime, name):
            yield f"fastjmix.{name}"
    if running.storage_dir != new.storage_dir:
        yield "storage.options.path"
    if running.create_storage != new.create_storage:
        yield "storage.options.create"
    if running.require_mount != new.require_mount:
        yield "storage.options.require_mount"


def _fitting(listener: DicomListener, most: int) -> DicomListener:
    return dataclasses.replace(listener, max_pdu=min(listener.max_pdu, most))
