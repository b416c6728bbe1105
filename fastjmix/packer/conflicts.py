"""Counts and logs the instances that contradict others of their envelope.

Wanted: an operator sees the first of them in the log; the documents mark each (jmix/).
Guaranteed: one line in the log per envelope and kind of conflict, however many instances are in
conflict. The line of the seal has their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastjmix import log
from fastjmix.ipc.metrics import Metrics
from fastjmix.jmix.write.envelope import Instance


@dataclass(slots=True)
class Conflicts:
    """The conflicts of one envelope.

    `conflicting`: instances whose SOP Instance UID was there with other bytes.
    `of_another_patient`: instances whose patient is not the one of the instances before them.
    """

    envelope: str
    calling_ae: str
    study_uid: str
    conflicting: int = 0
    of_another_patient: int = 0

    def count(self, instance: Instance, metrics: Metrics) -> None:
        """Counts an instance that was added to the envelope, if it is in conflict."""
        if instance.conflict:
            self.conflicting += 1
            metrics.add("instances_conflicting_total")
            if self.conflicting == 1:
                log.get().warning("instance_conflict", envelope=self.envelope)
        if instance.patient:
            self.of_another_patient += 1
            metrics.add("instances_of_another_patient_total")
            if self.of_another_patient == 1:
                self._warn_of_patient(instance)

    def _warn_of_patient(self, instance: Instance) -> None:
        """Names the instance by its UIDs: a log holds nothing of a patient."""
        log.get().warning(
            "patient_conflict",
            envelope=self.envelope,
            calling_ae=self.calling_ae,
            study=log.get().study(self.study_uid),
            instance=instance.sop_instance_uid,
            why="its patient is not the one of the instances before it",
        )

    def log_fields(self) -> dict[str, int | None]:
        """Returns the numbers for the log's line of the seal; None where there is none."""
        return {
            "conflicting": self.conflicting or None,
            "of_another_patient": self.of_another_patient or None,
        }
