"""The outcome of each instance, and statuses in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydicom.uid import UID
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, VERIFICATION_SERVICE_CLASS_STATUS

from fastjmix.tools.send.files import Instance
from fastjmix.tools.send.walk import Skipped, as_text

INTERRUPTED: Final = 130
"""128 and the number of SIGINT, as shells have it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one instance. `status` is None when the peer gave no answer."""

    instance: Instance
    status: int | None
    detail: str  # the peer's Error Comment, or why there is no status
    seconds: float
    tried: bool = True  # False: the run ended before

    @property
    def accepted(self) -> bool:
        """Returns whether the peer has it: Success or Warning (PS3.4 Table B.2-1, PS3.7
        Annex C)."""
        return self.status is not None and category(self.status) in ("Success", "Warning")

    @property
    def meaning(self) -> str:
        """Returns the status in words, with the peer's own when it gave any."""
        words = "Not sent" if self.status is None else describe(self.status)
        return f"{words}: {self.detail}" if self.detail else words

    def row(self) -> dict[str, Any]:
        """Returns the outcome for JSON."""
        return {
            **described(self.instance),
            "status": None if self.status is None else f"0x{self.status:04X}",
            "meaning": as_text(self.meaning),
            "accepted": self.accepted,
        }


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a run: one outcome for each sendable file, in the order they ended."""

    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    seconds: float
    associations: int  # how many were established
    leave_out: bool = False  # whether the caller knows that what was skipped is left out
    interrupted: bool = False  # by SIGINT: the rest was not tried
    before: int = 0  # instances that a record says the peer has accepted already

    @property
    def accepted(self) -> tuple[Outcome, ...]:
        """Returns the outcomes of instances that the peer has."""
        return tuple(outcome for outcome in self.outcomes if outcome.accepted)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Returns the outcomes of instances that the sender must keep."""
        return tuple(outcome for outcome in self.outcomes if not outcome.accepted)

    @property
    def bytes_sent(self) -> int:
        """Returns bytes of accepted data sets; DIMSE and PDU headers are not counted."""
        return sum(outcome.instance.size for outcome in self.accepted)

    @property
    def exit_code(self) -> int:
        """Returns 0: the peer has all; 1: it lacks some (see `leave_out`); 130: interrupted."""
        if self.interrupted:
            return INTERRUPTED
        return 1 if self.failed or (self.skipped and not self.leave_out) else 0

    def summary(self) -> dict[str, Any]:
        """Returns the report for JSON."""
        seconds = max(self.seconds, 1e-9)
        return {
            "files": len(self.outcomes),
            "accepted": len(self.accepted),
            "failed": len(self.failed),
            "bytes": self.bytes_sent,
            "seconds": round(self.seconds, 3),
            "megabytes_per_second": round(self.bytes_sent / seconds / 1e6, 3),
            "associations": self.associations,
            "sent_before": self.before,
            "exit_code": self.exit_code,
            "outcomes": [outcome.row() for outcome in self.outcomes],
            "skipped": [one.row() for one in self.skipped],
        }


def described(instance: Instance) -> dict[str, Any]:
    """Returns an instance for JSON."""
    return {
        "file": as_text(instance.path),
        "sop_class_uid": instance.sop_class,
        "sop_instance_uid": instance.sop_instance,
        "transfer_syntax_uid": instance.transfer_syntax,
        "bytes": instance.size,
    }


def kind_of(instance: Instance) -> str:
    """Returns the names of its SOP class and transfer syntax."""
    return f"{UID(instance.sop_class).name} as {UID(instance.transfer_syntax).name}"


def category(status: int) -> str:
    """Returns Success, Warning, Failure, Cancel or Pending (PS3.7 Annex C, PS3.4 Table B.2-1)."""
    if status in STORAGE_SERVICE_CLASS_STATUS:
        return str(STORAGE_SERVICE_CLASS_STATUS[status][0])
    return "Warning" if status in (0x0001, 0x0107, 0x0116) or status >> 12 == 0xB else "Failure"


def describe(status: int) -> str:
    """Returns the status in words: "Failure: Refused: Out of Resources"."""
    known = {**VERIFICATION_SERVICE_CLASS_STATUS, **STORAGE_SERVICE_CLASS_STATUS}
    kind, words = known.get(status, (category(status), "a status that the standard does not name"))
    return f"{kind}: {words}" if words else str(kind)
