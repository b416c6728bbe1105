"""Defines provenance/<id>.json: whence the instances of a sealed envelope came, and when.

Wanted: a node can prove from whom each instance of an envelope came, when, and what was answered,
and can rebuild its ledger from the files.
Guaranteed: `load` reads what `dump` writes, and no other text. The file of an envelope is durable
before its archive is in outbox/, and stays where it is whatever becomes of the envelope, until that
is deleted. A file that cannot be written stops no envelope: that is logged as an error, and counted
by the caller. A file without an envelope is deleted at the next start (sweep.py).

The text is one JSON object:

    format, id    1, and the envelope's id
    origin        "dicom"; "post": received by the API; "recovered": sealed after a crash or a
                  failed sync, from what the journal had noted
    associations  [{facts}…]: see association_facts.py. A posted envelope has one, without an id:
                  the address of the HTTP peer, and when it came
    study         {"study_instance_uid", "accession_number", "patient_id", "patient_name",
                  "patient_birth_date", "patient_sex", "study_date", "study_description",
                  "modalities": […]}. An encrypted envelope has the UID and the modalities only;
                  with `[fastjmix.ledger] patient_data = false` the texts of WITHHELD are ""
    series, sop_classes, transfer_syntaxes    [uid…]
    instances     [[SOP Instance UID, series, SOP class, transfer syntax, association,
                  Unix seconds, bytes of the member, status, kept]…] in the order of arrival. The
                  second to the fifth are places in the lists above; association -1 and 0 seconds:
                  unknown. Kept is 1; 0 for a repetition, whose bytes were there already. A posted
                  envelope lists none.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import orjson

from fastjmix import log
from fastjmix.errors import DamagedTicket, reason
from fastjmix.failpoints import reach
from fastjmix.jmix.ids import is_id
from fastjmix.spool.association_facts import AssociationFacts
from fastjmix.spool.directories import Directories
from fastjmix.spool.files import write_again
from fastjmix.spool.lock import FORMAT
from fastjmix.spool.reading import read_small
from fastjmix.spool.ticket import SECONDS_MAX

Origin = Literal["dicom", "post", "recovered"]

BYTES_MAX: Final = 1 << 30
"""Bytes read of a provenance: an instance takes some 130, and up to 900 where each has an
association and a series of its own. An envelope has a million instances at most."""

STORED: Final = "0000"
"""The C-STORE status of an instance that is in the envelope."""


class ArrivedInstance(NamedTuple):
    """An instance as it arrived; the numbers are places in the lists of the Provenance."""

    sop_instance_uid: str
    series: int
    sop_class: int
    transfer_syntax: int
    association: int
    arrived: float
    bytes: int
    status: str = STORED
    kept: int = 1


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """The study and the patient, as an envelope's documents name them; "" where unknown."""

    study_instance_uid: str
    accession_number: str = ""
    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    study_date: str = ""
    study_description: str = ""
    modalities: tuple[str, ...] = ()

    def without_patient(self) -> StudyFacts:
        """Returns the same without the texts of WITHHELD."""
        return StudyFacts(**asdict(self) | dict.fromkeys(WITHHELD, ""))


WITHHELD: Final = (
    "accession_number",
    "patient_id",
    "patient_name",
    "patient_birth_date",
    "patient_sex",
    "study_description",
)
"""Fields of StudyFacts that say, or may say, who the patient is: an accession number leads to the
order, and a description is free text."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The provenance of one envelope."""

    id: str
    origin: Origin
    associations: tuple[AssociationFacts, ...]
    study: StudyFacts
    series: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    transfer_syntaxes: tuple[str, ...] = ()
    instances: tuple[ArrivedInstance, ...] = ()

    def without_patient(self) -> Provenance:
        """Returns the same without the texts of WITHHELD; itself where it has none."""
        study = self.study.without_patient()
        return self if study == self.study else replace(self, study=study)

    def dump(self) -> bytes:
        """Returns the text of the file."""
        shown = {
            "format": FORMAT,
            "id": self.id,
            "origin": self.origin,
            "associations": [one.as_json() for one in self.associations],
            "study": asdict(self.study),
            "series": self.series,
            "sop_classes": self.sop_classes,
            "transfer_syntaxes": self.transfer_syntaxes,
            "instances": [tuple(one) for one in self.instances],
        }
        return orjson.dumps(shown, option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def load(cls, text: bytes, where: str) -> Provenance:
        """Returns the provenance that `dump` wrote. Raises DamagedTicket, with `where`, for any
        other text."""
        try:
            return _loaded(orjson.loads(text))
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as problem:
            raise DamagedTicket(
                f"{where}: not a provenance of fastjmix ({problem})",
                "Move it away by hand, and look at the disk. Its envelope does not need it.",
            ) from problem

    @classmethod
    def read(cls, spool: Directories, envelope_id: str) -> Provenance:
        """Returns the provenance of an envelope. Raises OSError, DamagedTicket."""
        path = path_of(spool, envelope_id)
        found = cls.load(read_small(path, BYTES_MAX), str(path))
        if found.id != envelope_id:
            raise DamagedTicket(
                f"{path}: is about another envelope, {found.id}",
                "Move it away by hand. Its envelope does not need it.",
            )
        return found


def path_of(spool: Directories, envelope_id: str) -> Path:
    """Returns the path of a provenance, whether or not it is there."""
    return spool.provenance / f"{envelope_id}.json"


def write(spool: Directories, provenance: Provenance) -> None:
    """Writes a provenance, in place of one that is there. Raises OSError."""
    kept = provenance if spool.patient_data else provenance.without_patient()
    path = path_of(spool, provenance.id)
    path.parent.mkdir(mode=0o700, exist_ok=True)  # it may have been deleted since the start
    write_again(path, kept.dump(), spool.owner, durable=spool.durable)


def keep(spool: Directories, envelope_id: str, make: Callable[[], Provenance]) -> bool:
    """Writes what `make` returns. Returns False, with an error in the log, when that failed: the
    envelope goes on without it."""
    try:
        write(spool, make())
    except Exception as problem:
        fault = None if isinstance(problem, OSError) else problem
        hint = "the envelope goes on; the ledger will lack its associations"
        log.get().error(
            "provenance_failed",
            envelope=envelope_id,
            why=reason(problem),
            hint=hint,
            exc_info=fault,
        )
        return False
    reach("provenance.written")
    return True


def remove(spool: Directories, envelope_id: str) -> None:
    """Deletes the provenance of an envelope that is no more. One that stays because of an error is
    deleted at the next start."""
    with contextlib.suppress(OSError):
        path_of(spool, envelope_id).unlink(missing_ok=True)


# -- checks ----------------------------------------------------------------------------------------


def _loaded(found: object) -> Provenance:
    """Raises TypeError, KeyError, ValueError for what fastjmix did not write."""
    if not isinstance(found, dict) or found["format"] != FORMAT:
        raise TypeError("its format is not known to this version")
    if not isinstance(found["id"], str) or not is_id(found["id"]):
        raise TypeError("its 'id' is not what fastjmix writes")
    if found["origin"] not in ("dicom", "post", "recovered"):
        raise TypeError("its 'origin' is not what fastjmix writes")
    associations = [AssociationFacts.of(one) for one in _list(found["associations"])]
    known = [one for one in associations if one is not None]
    if len(known) < len(associations):
        raise TypeError("its 'associations' are not what fastjmix writes")
    lists = {name: _texts(found[name]) for name in ("series", "sop_classes", "transfer_syntaxes")}
    sizes = (*map(len, lists.values()), len(known))
    instances = tuple(_instances(found["instances"], sizes))
    study = _study(found["study"])
    return Provenance(
        found["id"], found["origin"], tuple(known), study, **lists, instances=instances
    )


def _list(value: object) -> list[Any]:  # elements are checked by the callers
    if not isinstance(value, list):
        raise TypeError("a list is none")
    return value


def _texts(value: object) -> tuple[str, ...]:
    found = tuple(_list(value))
    if not all(isinstance(one, str) for one in found):
        raise TypeError("a text is none")
    return found


def _study(value: object) -> StudyFacts:
    names = [one.name for one in fields(StudyFacts)]
    if not isinstance(value, dict) or value.keys() != set(names):
        raise TypeError("its 'study' is not what fastjmix writes")
    modalities = _texts(value["modalities"])
    if not all(isinstance(value[name], str) for name in names[:-1]):
        raise TypeError("its 'study' is not what fastjmix writes")
    return StudyFacts(**(value | {"modalities": modalities}))


def _instances(value: object, sizes: tuple[int, ...]) -> Iterator[ArrivedInstance]:
    """Yields each instance, in two microseconds: an envelope may have a million."""
    series, classes, syntaxes, associations = sizes
    for one in _list(value):
        uid, in_series, sop_class, syntax, association, arrived, size, status, kept = one
        if not (
            type(uid) is type(status) is str
            and type(in_series) is type(sop_class) is type(syntax) is type(association) is int
            and 0 <= in_series < series
            and 0 <= sop_class < classes
            and 0 <= syntax < syntaxes
            and -1 <= association < associations
            and type(arrived) in (float, int)
            and 0 <= arrived <= SECONDS_MAX
            and type(size) is int
            and size >= 0
            and kept in (0, 1)
        ):
            raise TypeError("one of its 'instances' is not what fastjmix writes")
        yield ArrivedInstance._make(one)
