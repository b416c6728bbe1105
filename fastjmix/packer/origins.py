"""Keeps whence the instances of one envelope came: by which association, and when.

Wanted: the provenance of an envelope (spool/provenance.py), also of one that another process seals.
Guaranteed: an instance costs a microsecond, and no system call: its journal notes go with the
record of its member. An association is noted there with its facts before, or with, its first
instance. Where the journal has lost them, the instance is from an unknown association.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Final

from fastjmix._core import Arrival
from fastjmix.dicom.dataset import Description
from fastjmix.jmix.write.envelope import Contents, Instance, Study
from fastjmix.spool import AssociationFacts, Provenance
from fastjmix.spool.journal import Origin, Promises
from fastjmix.spool.provenance import ArrivedInstance, StudyFacts
from fastjmix.spool.provenance import Origin as Kind

UNKNOWN: Final = -1


_origin: Final = partial(tuple.__new__, Origin)
"""Makes an Origin of a tuple, in a third of the time."""


class Origins:
    """The origins of the instances of one envelope. `kind` is that of its provenance.

    `unwritten`: the seal could not write the provenance.
    """

    __slots__ = ("_arrived", "_associations", "_places", "_unnoted", "kind", "unwritten")

    def __init__(self, kind: Kind = "dicom") -> None:
        self.kind = kind
        self.unwritten = False
        self._associations: list[AssociationFacts] = []
        self._places: dict[int, int] = {}
        self._unnoted: set[int] = set()
        self._arrived: list[tuple[Instance, int, int, int, int]] = []

    # -- as they arrive --------------------------------------------------------------------------

    def of(self, arrival: Arrival) -> Origin:
        """Returns the origin of an instance, for the journal. `add` is to follow when it is kept
        there."""
        place = self._places.get(arrival.association)
        if place is None:
            place = self._take_association(arrival)
        facts = arrival.association_facts if place in self._unnoted else b""
        return _origin((place, arrival.arrived_ms, facts))

    def _take_association(self, arrival: Arrival) -> int:
        facts = AssociationFacts.load(arrival.association_facts)
        place = UNKNOWN
        if facts is not None:
            place = len(self._associations)
            self._associations.append(facts)
            self._unnoted.add(place)
        self._places[arrival.association] = place
        return place

    def add(self, instance: Instance, origin: Origin, size: int, *, kept: bool = True) -> None:
        """Adds an instance whose origin the journal will have. `kept` False: its bytes are those of
        `instance`, which came before."""
        place, arrived_ms, facts = origin
        if facts:
            self._unnoted.discard(place)
        self._arrived.append((instance, place, arrived_ms, size, 1 if kept else 0))

    # -- as the journal has them -----------------------------------------------------------------

    @classmethod
    def recovered(
        cls, promises: Promises, members: Iterable[tuple[int, Instance]]
    ) -> tuple[Origins, dict[int, Origin]]:
        """Returns the origins of the members of a leftover draft, given with their offsets; and the
        origin of each member by its offset, with the facts where they belong in a new journal."""
        origins, by_offset = cls("recovered"), {}
        known = dict(members)
        for offset, instance in known.items():
            origin = origins._again(promises, promises.origins.get(offset))
            by_offset[offset] = origin
            origins.add(instance, origin, instance.size)
        for offset, origin in promises.repetitions:
            if offset in known:
                again = origins._again(promises, origin)
                origins.add(known[offset], again, known[offset].size, kept=False)
        return origins, by_offset

    def _again(self, promises: Promises, origin: Origin | None) -> Origin:
        """Returns an origin of the journal with the place of its association here."""
        if origin is None:
            return Origin(UNKNOWN, 0)
        place = self._places.get(origin.association)
        if place is not None:
            return Origin(place, origin.arrived_ms)
        text = promises.associations.get(origin.association, b"")
        facts = AssociationFacts.load(text)
        if facts is None:
            self._places[origin.association] = UNKNOWN
            return Origin(UNKNOWN, origin.arrived_ms)
        place = self._places[origin.association] = len(self._associations)
        self._associations.append(facts)
        return Origin(place, origin.arrived_ms, text)

    def repetitions(self) -> list[tuple[Instance, Origin]]:
        """Returns the instances whose bytes came again, and whence."""
        return [(one, Origin(place, ms)) for one, place, ms, _, kept in self._arrived if not kept]

    # -- sealed ----------------------------------------------------------------------------------

    def provenance(self, envelope_id: str, contents: Contents, *, encrypted: bool) -> Provenance:
        """Returns the provenance of the envelope with these contents.

        Where the envelope is encrypted it names no patient: the provenance file is plain text."""
        series: list[str] = []
        numbers: dict[int, int] = {}
        for study in contents.studies.values():
            for one in study.series.values():
                for instance in one.instances:
                    numbers[id(instance)] = len(series)
                series.append(one.series_uid)
        classes: dict[str, int] = {}
        syntaxes: dict[str, int] = {}
        instances = tuple(
            ArrivedInstance(
                one.sop_instance_uid,
                numbers[id(one)],
                classes.setdefault(one.sop_class_uid, len(classes)),
                syntaxes.setdefault(one.transfer_syntax_uid, len(syntaxes)),
                place,
                arrived_ms / 1000,
                size,
                kept=kept,
            )
            for one, place, arrived_ms, size, kept in self._arrived
        )
        return Provenance(
            envelope_id,
            self.kind,
            tuple(self._associations),
            _facts_of(next(iter(contents.studies.values())), encrypted=encrypted),
            tuple(series),
            tuple(classes),
            tuple(syntaxes),
            instances,
        )


def facts_of_first(study_uid: str, first: Description, *, encrypted: bool) -> StudyFacts:
    """Returns what the first instance of an envelope says of its study; nothing of the patient
    where the payload will be encrypted."""
    modalities = (first.modality,) if first.modality else ()
    if encrypted:
        return StudyFacts(study_uid, modalities=modalities)
    return StudyFacts(
        study_uid,
        first.accession_number,
        first.patient_id,
        first.patient_name,
        first.patient_birth_date,
        first.patient_sex,
        first.study_date,
        first.study_description,
        modalities,
    )


def _facts_of(study: Study, *, encrypted: bool) -> StudyFacts:
    named = (name for one in study.series.values() for name in one.description.modalities if name)
    modalities = tuple(sorted(set(named)))
    if encrypted:
        return StudyFacts(study.study_uid, modalities=modalities)
    described, patient = study.description, study.description.patient
    return StudyFacts(
        study.study_uid,
        described.accession_number,
        patient.patient_id,
        patient.patient_name,
        patient.patient_birth_date,
        patient.patient_sex,
        described.study_date,
        described.study_description,
        modalities,
    )
