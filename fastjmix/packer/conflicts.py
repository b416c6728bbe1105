"""Tells of instances that contradict others of their envelope: logs, counts.

Wanted: an operator hears of the first one; documents mark each (jmix/).
Guaranteed: a line in the log per envelope and kind of conflict, however many instances are in
conflict; the line of the seal says how many those were (`counted`).
"""

from __future__ import annotations

from fastjmix import log
from fastjmix.ipc.metrics import Stats
from fastjmix.jmix.write.envelope import Instance
from fastjmix.packer.open_envelope import Packing


def count(packing: Packing, taken: Instance, stats: Stats) -> None:
    """Counts an instance that was entered, if it is in conflict with an earlier one."""
    if taken.conflict:
        packing.conflicts += 1
        stats.add("instances_conflicting_total")
        if packing.conflicts == 1:
            log.get().warning("instance_conflict", envelope=packing.draft.id)
    if taken.patient:
        packing.strangers += 1
        stats.add("instances_of_another_patient_total")
        if packing.strangers == 1:
            _warn_of_patient(packing, taken)


def _warn_of_patient(packing: Packing, taken: Instance) -> None:
    """Names the instance by its UIDs: a log holds nothing of a patient."""
    log.get().warning(
        "patient_conflict",
        envelope=packing.draft.id,
        calling_ae=packing.draft.recipe.calling_ae,
        study=packing.study_uid,
        instance=taken.sop_instance_uid,
        why="its patient is not the one of the instances before it",
    )


def counted(packing: Packing) -> dict[str, int | None]:
    """Returns what the line of the seal says of conflicts; None for none."""
    return {
        "conflicting": packing.conflicts or None,
        "of_another_patient": packing.strangers or None,
    }
