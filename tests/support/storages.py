"""A storage directory as a node leaves it: tickets, provenance and archives, without a node."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from fastjmix.ledger.database import open_for_writing, write_lock
from fastjmix.ledger.queries import Ledger
from fastjmix.ledger.writer import Writer
from fastjmix.spool import AssociationFacts, Provenance, Recipe, Ticket
from fastjmix.spool.provenance import ArrivedInstance, StudyFacts
from fastjmix.spool.recipe import UNKNOWN

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MORNING = 1_750_000_000.0

PATIENT: Final[Mapping[str, Any]] = {
    "accession_number": "A-2201",
    "patient_id": "P-77",
    "patient_name": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "patient_birth_date": "19700101",
    "patient_sex": "M",
    "study_date": "20260101",
    "study_description": "Thorax",
    "modalities": ("CT",),
}


class Storage:
    """The directories of a node, and what a packer, an uploader and a person do to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("building", "outbox", "sent", "rejected", "provenance"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.ledger = Ledger(root)

    @contextmanager
    def writer(self, **options: Any) -> Iterator[Writer]:
        """Yields the one writer of the storage's ledger."""
        with write_lock(self.root):
            connection = open_for_writing(self.root)
            try:
                yield Writer(connection, self.root, **options)
            finally:
                connection.close()

    def draft(self, study: str, envelope_id: str | None = None) -> str:
        """Makes a draft in building/; returns its id."""
        envelope_id = envelope_id or str(uuid.uuid4())
        directory = self.root / "building" / envelope_id
        directory.mkdir()
        values = {name: getattr(UNKNOWN, name) for name in Recipe.__slots__}
        given = {"study": study, "calling_ae": "CT1", "upstreams": ("up",), "created": MORNING}
        recipe = Recipe(**{**values, **given, "pipeline": "p"})
        (directory / "draft.json").write_bytes(recipe.dump())
        return envelope_id

    def envelope(
        self,
        study: str = "1.2.3",
        state: str = "outbox",
        *,
        count: int = 3,
        at: float = MORNING,
        about: Mapping[str, Any] = PATIENT,
        **said: Any,
    ) -> str:
        """Makes a sealed envelope of `count` instances; returns its id. `said` is of its ticket."""
        envelope_id = str(uuid.uuid4())
        facts = AssociationFacts(
            "run-1", "CT1", "FASTJMIX", "10.0.0.7:40000", "1.2.276", "OFFIS", at - 5
        )
        found = tuple(
            ArrivedInstance(f"{study}.1.{n}", 0, 0, 0, 0, at + n / 1000, 512 + n)
            for n in range(count)
        )
        origin = Provenance(
            envelope_id, "dicom", (facts,), StudyFacts(study, **about), (f"{study}.1",), (CT,),
            (EXPLICIT,), found,
        )  # fmt: skip
        (self.root / "provenance" / f"{envelope_id}.json").write_bytes(origin.dump())
        ticket = Ticket(
            **{
                "id": envelope_id, "pipeline": "p", "upstreams": ("up",), "ack": "stored",
                "studies": (study,), "calling_ae": "CT1", "instances": count,
                "size_bytes": 1000 * count, "sealed_at": at + 10, "origin": "packer-0", **said,
            }
        )  # fmt: skip
        (self.root / state / f"{envelope_id}.json").write_bytes(ticket.dump())
        (self.root / state / f"{envelope_id}.zip").write_bytes(b"PK")
        return envelope_id

    def move(self, envelope_id: str, source: str, target: str) -> None:
        """Moves an envelope, its record too, as a person does."""
        for ending in ("json", "zip"):
            name = f"{envelope_id}.{ending}"
            (self.root / source / name).rename(self.root / target / name)

    def delete(self, envelope_id: str, state: str) -> None:
        """Deletes an envelope and what is known of it."""
        for directory, ending in ((state, "json"), (state, "zip"), ("provenance", "json")):
            (self.root / directory / f"{envelope_id}.{ending}").unlink(missing_ok=True)

    def hold(self, envelope_id: str) -> None:
        """Holds an envelope in outbox/."""
        (self.root / "outbox" / f"{envelope_id}.hold").write_text("{}")


def event(kind: str, at: float = MORNING, **facts: Any) -> dict[str, Any]:
    """Returns an event as the pipe gives it."""
    return {"kind": kind, "at": at, **facts}


def association(number: int = 1, at: float = MORNING, **facts: Any) -> dict[str, Any]:
    """Returns the event of an association that has ended."""
    return event(
        "association",
        at,
        **{
            "id": f"run-{number}", "calling_ae": "CT1", "called_ae": "FASTJMIX",
            "peer": "10.0.0.7:40000", "implementation_uid": "1.2.276",
            "implementation_version": "OFFIS", "began": at - 5, "ended": at, "how": "released",
            "stored": 3, "refused": 0, "bytes": 1539, "seconds": 0.5, "pdu_bytes": 16384,
            "waits": {"peer": 0.4, "packer": 0.1, "disk": 0.0}, "p50_ms": 1.5, "p99_ms": 4.0,
            "statuses": {"0000": 3}, **facts,
        },
    )  # fmt: skip
