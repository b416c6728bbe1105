"""Merges the instances' descriptions of their study, their series and their patient.

Wanted: the same instances give the same description, in whatever order they come, also when a dose
report without a name comes first.
Guaranteed: an empty field is filled by the next instance that has it, and a field that is filled
stays. A modality is the one that most images name; SR, PR, KO and their like count only where there
is nothing else (`preferred`). Instances whose patient identity contradicts that of the study do not
fill its fields: they make a patient of their own, and are counted by the caller.
Still wrong: one person with two Patient IDs, or with two spellings of a name, becomes two patients.

An instance with the same description as the one before it costs a comparison of identities:
describe_series returns one Description for equal heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

PATIENTS_MAX: Final = 16
"""Patients of one study that are listed: two are an error already. Instances of further patients
are marked and counted, too."""

NO_PATIENT: Final = -1
"""The place in `patients` of one that is not listed."""

_NO_NAME: Final = "^= "
"""A PN of these characters alone is no name."""

_documents: Final = frozenset(("SR", "PR", "KO", "DOC", "PLAN", "ASMT"))
"""Modalities (PS3.3 §C.7.3.1.1.1) of documents about images."""

_derived: Final = frozenset(
    (
        "OT", "REG", "SEG", "FID", "RWV", "ANN", "SMR", "STAIN", "TEXTUREMAP", "M3D", "RTDOSE",
        "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "CTPROTOCOL",
        "XAPROTOCOL", "AR", "IOL", "KER", "LEN", "SRF", "VA", "AU", "ECG", "EEG", "EMG", "EOG",
        "EPS", "HD", "POS", "RESP",
    )
)  # fmt: skip
"""Modalities of instances that are no images, are derived from images, or are of no named kind."""


class Description(Protocol):
    """A study and a series as a profile describes them; absent is "" or None."""

    @property
    def patient_name(self) -> str: ...
    @property
    def study_date(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def patient_id(self) -> str: ...
    @property
    def patient_birth_date(self) -> str: ...
    @property
    def patient_sex(self) -> str: ...
    @property
    def study_description(self) -> str: ...
    @property
    def accession_number(self) -> str: ...
    @property
    def series_number(self) -> int | None: ...
    @property
    def series_description(self) -> str: ...
    @property
    def body_part(self) -> str: ...


# -- the patient ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Patient:
    """A patient as instances identify them (PS3.3 §C.7.1.1); `instances` counts those."""

    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    instances: int = 0

    def is_of(self, described: Description) -> bool:
        """Returns whether an instance's description contradicts nothing that is known."""
        return (
            _agree(self.patient_id, described.patient_id)
            and _agree(self.patient_birth_date, described.patient_birth_date)
            and _agree(self.patient_sex, described.patient_sex)
            and _same_name(self.patient_name, described.patient_name)
        )

    def fill(self, described: Description) -> None:
        """Fills the fields that are empty."""
        self.patient_id = self.patient_id or described.patient_id
        if not self.patient_name.strip(_NO_NAME):
            self.patient_name = described.patient_name or self.patient_name
        self.patient_birth_date = self.patient_birth_date or described.patient_birth_date
        self.patient_sex = self.patient_sex or described.patient_sex


def _agree(known: str, described: str) -> bool:
    return not known or not described or known == described


def _same_name(known: str, described: str) -> bool:
    return _agree(known, described) or all(map(_agree, _groups(known), _groups(described)))


def _groups(name: str) -> list[str]:
    """Returns the component groups of a PN (PS3.5 §6.2.1), so that spellings of one name are equal:
    without regard to case, repeated blanks, and carets at the end."""
    groups = name.casefold().split("=")
    return ["^".join(" ".join(p.split()) for p in g.split("^")).rstrip("^") for g in groups]


# -- modalities ----------------------------------------------------------------------------------


def preferred(modalities: Mapping[str, int]) -> str:
    """Returns the modality that describes instances; `modalities` counts those that name each.

    A modality of images comes before any other, one of documents last; then one that more
    instances name; then the first of the alphabet. So it does not depend on their order. "" when
    there is none.
    """
    named = (one for one in modalities if one)
    return min(named, key=lambda one: (_rank(one), -modalities[one], one), default="")


def _rank(modality: str) -> int:
    name = modality.upper()
    return 2 if name in _documents else 1 if name in _derived else 0


def together(counted: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Returns the number of instances of several series that name each modality."""
    found: dict[str, int] = {}
    for one in counted:
        for modality, count in one.items():
            found[modality] = found.get(modality, 0) + count
    return found


# -- a series and a study ------------------------------------------------------------------------


@dataclass(slots=True)
class SeriesDescription:
    """A series as its instances describe it; `modalities` counts those that name each."""

    series_number: int | None = None
    series_description: str = ""
    body_part: str = ""
    modalities: dict[str, int] = field(default_factory=dict)
    _last: Description | None = None

    @property
    def modality(self) -> str:
        """See `preferred`."""
        return preferred(self.modalities)

    def take(self, described: Description) -> None:
        """Fills the fields that are empty."""
        self.modalities[described.modality] = self.modalities.get(described.modality, 0) + 1
        if described is self._last:
            return
        self._last = described
        if self.series_number is None:
            self.series_number = described.series_number
        self.series_description = self.series_description or described.series_description
        self.body_part = self.body_part or described.body_part


@dataclass(slots=True)
class StudyDescription:
    """A study as its instances describe it. The first of `patients` is the study's own."""

    study_date: str = ""
    study_description: str = ""
    accession_number: str = ""
    patients: list[Patient] = field(default_factory=lambda: [Patient()])
    _last: Description | None = None
    _patient: int = 0

    @property
    def patient(self) -> Patient:
        """The patient whom the study's first instances identify."""
        return self.patients[0]

    def take(self, described: Description) -> int:
        """Fills the fields that are empty. Returns the place in `patients` of the instance's
        patient; NO_PATIENT for one that is not listed."""
        if described is not self._last:
            self._last = described
            self.study_date = self.study_date or described.study_date
            self.study_description = self.study_description or described.study_description
            self.accession_number = self.accession_number or described.accession_number
            self._patient = self._whose(described)
        if self._patient != NO_PATIENT:
            self.patients[self._patient].instances += 1
        return self._patient

    def _whose(self, described: Description) -> int:
        for place, one in enumerate(self.patients):
            if one.is_of(described):
                one.fill(described)
                return place
        if len(self.patients) == PATIENTS_MAX:
            return NO_PATIENT
        self.patients.append(Patient())
        self.patients[-1].fill(described)
        return len(self.patients) - 1


# -- for documents -------------------------------------------------------------------------------


def conflict_entry(described: StudyDescription) -> dict[str, Any]:
    """Returns the keys that mark a study with more than one patient; none for any other."""
    if len(described.patients) == 1:
        return {}
    return {"patient_conflict": True, "patients": [_shown(one) for one in described.patients]}


def _shown(one: Patient) -> dict[str, Any]:
    known = {
        "patient_id": one.patient_id,
        "patient_name": one.patient_name,
        "patient_birth_date": one.patient_birth_date,
        "patient_sex": one.patient_sex,
    }
    return {key: text for key, text in known.items() if text} | {"instance_count": one.instances}
