"""The contents of an envelope that is being written: its instances, their names and descriptions.

Wanted: the least that is needed to write the envelope's documents at its end, whatever the profile.
Guaranteed: series and images are numbered by first arrival; a name that `next_name` returned stays
unused until `add` uses it, so an append that failed leaves no gap.
Still wrong: every instance stays in memory until the seal, about 500 bytes each with its UID;
`max_envelope_instances` is the bound.

A profile (see profiles.py) makes the names, and the documents from the contents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from fastjmix.jmix.write.described import (
    Description,
    SeriesDescription,
    StudyDescription,
    preferred,
    together,
)

if TYPE_CHECKING:
    from fastjmix.jmix.keys import SigningKey
    from fastjmix.jmix.write.parties import Published

PAYLOAD: Final = "payload"
"""The folder of everything that the envelope carries."""

BELOW: Final = len(PAYLOAD) + 1  # where a path relative to it begins

Digest = Literal["sha256", "blake3"]
PayloadHash = Literal["tree", "stream"]

Naming = Callable[[int, int, str, int], bytes]
"""(series number, image number within the series, both from 1; SOP Instance UID, how many instances
of it the envelope holds already) → the member's name, UTF-8."""


@dataclass(slots=True)
class Instance:
    """A member that is a DICOM instance.

    `size` (bytes) and `digest` are those of the whole member, File Meta Information included;
    `digest` is None where hashing is skipped, and until it is made (before the documents are).
    `conflict`: the envelope already held this SOP Instance UID, with other bytes. `data`: offset
    and length of the data set in the archive, and `crc` the member's CRC-32, where the caller
    knows it. `patient`: its place among the study's patients (StudyDescription.take). `fault`: the
    reason why its data set is malformed; it was stored all the same.
    """

    name: bytes
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    size: int
    digest: bytes | None
    conflict: bool
    data: tuple[int, int]
    crc: int = 0
    patient: int = 0
    fault: str = ""


@dataclass(slots=True)
class Series:
    """A series in the order of arrival; `number` counts series through the whole envelope."""

    number: int
    series_uid: str
    description: SeriesDescription = field(default_factory=SeriesDescription)
    instances: list[Instance] = field(default_factory=list)


@dataclass(slots=True)
class Study:
    """A study as all its instances describe it (described.py). `series` by Series Instance UID."""

    study_uid: str
    description: StudyDescription = field(default_factory=StudyDescription)
    series: dict[str, Series] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """The modality of all its instances, whatever their order."""
        return preferred(together(one.description.modalities for one in self.series.values()))


class Contents:
    """The instances of an envelope so far. `studies` is keyed by Study Instance UID, oldest
    first."""

    __slots__ = ("_copies", "_count", "_first", "_naming", "_series", "size_bytes", "studies")

    def __init__(self, naming: Naming) -> None:
        self._naming = naming
        self._series: dict[tuple[str, str], Series] = {}
        self._first: dict[str, Instance] = {}
        self._copies: dict[str, list[Instance]] = {}
        self.studies: dict[str, Study] = {}
        self.size_bytes = 0
        self._count = 0

    def __len__(self) -> int:
        """Returns the number of instances."""
        return self._count

    def next_name(self, study_uid: str, series_uid: str, sop_instance_uid: str) -> bytes:
        """Returns the name that the next `add` of these UIDs will use. Changes nothing."""
        copy = self._count_of(sop_instance_uid)
        series = self._series.get((study_uid, series_uid))
        if series is None:
            return self._naming(len(self._series) + 1, 1, sop_instance_uid, copy)
        return self._naming(series.number, len(series.instances) + 1, sop_instance_uid, copy)

    def add(
        self,
        study_uid: str,
        series_uid: str,
        sop_class_uid: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        instance_number: int | None,
        size: int,
        digest: bytes | None,
        described: Description,
        data: tuple[int, int] = (0, 0),
        crc: int = 0,
        fault: str = "",
    ) -> Instance:
        """Adds an instance that is complete in the archive.

        `described` is its data set's description of series, study and patient. The caller checks
        first, with `twins`, whether the same bytes are here already. Half of its lines are the
        fields of an instance, one a line; the rest are five steps that need each other's results.
        """
        series = self._series.get((study_uid, series_uid))
        if series is None:
            series = self._open(study_uid, series_uid)
        series.description.take(described)
        patient = self.studies[study_uid].description.take(described)
        copy = self._count_of(sop_instance_uid)
        name = self._naming(series.number, len(series.instances) + 1, sop_instance_uid, copy)
        instance = Instance(
            name,
            sop_class_uid,
            sop_instance_uid,
            transfer_syntax_uid,
            instance_number,
            size,
            digest,
            copy > 0,
            data,
            crc,
            patient,
            fault,
        )
        if copy:
            self._copies.setdefault(sop_instance_uid, []).append(instance)
        else:
            self._first[sop_instance_uid] = instance
        series.instances.append(instance)
        self.size_bytes += size
        self._count += 1
        return instance

    def twins(self, sop_instance_uid: str) -> tuple[Instance, ...]:
        """Returns the instances with this SOP Instance UID, oldest first."""
        first = self._first.get(sop_instance_uid)
        return () if first is None else (first, *self._copies.get(sop_instance_uid, ()))

    def holds(self, sop_instance_uid: str) -> bool:
        """Returns whether there is an instance with this SOP Instance UID."""
        return sop_instance_uid in self._first

    def _count_of(self, sop_instance_uid: str) -> int:
        if sop_instance_uid not in self._first:
            return 0
        return 1 + len(self._copies.get(sop_instance_uid, ()))

    def instances(self) -> Iterator[Instance]:
        """Yields every instance, by series in the order of their numbers, then by arrival."""
        for series in self._series.values():
            yield from series.instances

    def _open(self, study_uid: str, series_uid: str) -> Series:
        study = self.studies.get(study_uid)
        if study is None:
            study = self.studies[study_uid] = Study(study_uid)
        series = Series(len(self._series) + 1, series_uid)
        self._series[study_uid, series_uid] = study.series[series_uid] = series
        return series


@dataclass(frozen=True, slots=True)
class Options:
    """Options for the documents. `sealed_at` is Unix seconds, the manifest's time.

    `published` is the configuration of profile jmix-1.0, `keys` the private keys that it names, by
    file. `read` gives the pieces of an instance's member again, by its name: for
    `payload_hash` = "stream".
    """

    envelope_id: str
    sealed_at: float
    digest: Digest = "sha256"
    skip_hashing: bool = False
    skip_listing: bool = False
    payload_hash: PayloadHash = "tree"
    published: Published | None = None
    keys: Mapping[str, SigningKey] = field(default_factory=dict)
    read: Callable[[bytes], Iterable[bytes]] | None = None


class Document(NamedTuple):
    """A member that the profile writes: name (UTF-8) and bytes."""

    name: bytes
    data: bytes
