"""Holds back what a running node cannot change: it stays as it is until the next start.

Wanted: one key that needs a restart does not keep the others from being applied.
Guaranteed: the tree that is applied fits the lanes, the processes and the storage that there are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Final

from fastjmix.config import Config, DicomListener
from fastjmix.supervisor.memory import LANE_PDUS, Plan

RUNTIME: Final[Mapping[str, str]] = {
    "receivers": "fastjmix.receivers",
    "packers": "fastjmix.packers",
    "lane_bytes": "fastjmix.lane_bytes",
}
STORAGE: Final[Mapping[str, str]] = {
    "storage_dir": "storage.options.path",
    "create_storage": "storage.options.create",
    "require_mount": "storage.options.require_mount",
}
"""The fields of Config.runtime and of Config that stay as they are, and the keys that they have in
the file."""


def held_back(running: Config, new: Config, plan: Plan) -> tuple[Config, tuple[str, ...]]:
    """Returns the new configuration as far as it can be applied, and the keys that cannot."""
    keys = [*_differing(running, new)]
    most = plan.lane_bytes // LANE_PDUS
    if any(listener.max_pdu > most for listener in new.dicom):
        keys.append(f"endpoints.*.options.max_pdu (above {most})")
    if sum(listener.max_associations for listener in new.dicom) > plan.wanted:
        keys.append(f"endpoints.*.options.max_associations (above {plan.wanted} together)")
    applied = dataclasses.replace(
        new,
        **{field: getattr(running, field) for field in STORAGE},
        runtime=dataclasses.replace(
            new.runtime, **{field: getattr(running.runtime, field) for field in RUNTIME}
        ),
        dicom=tuple(_fitting(listener, most) for listener in new.dicom),
    )
    return applied, tuple(keys)


def _differing(running: Config, new: Config) -> Iterator[str]:
    """Yields the keys of the whole node that were changed and cannot be."""
    for field, key in RUNTIME.items():
        if getattr(running.runtime, field) != getattr(new.runtime, field):
            yield key
    for field, key in STORAGE.items():
        if getattr(running, field) != getattr(new, field):
            yield key


def _fitting(listener: DicomListener, most: int) -> DicomListener:
    return dataclasses.replace(listener, max_pdu=min(listener.max_pdu, most))
