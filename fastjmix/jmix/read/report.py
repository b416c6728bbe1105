"""The result of a verification, as values for a person and for a program.

Guaranteed: a fault is something wrong. A remark is no fault and worth knowing: a hash that was
skipped, a signature that could not be verified without a key.
Still wrong: faults have no code. A program gets the place, the text and the byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import Fault

FINDINGS_MAX: Final = 10_000
"""Faults, and remarks, that are kept: a listing of a million entries can have one in each."""


class Finding(NamedTuple):
    """A fault or a remark: the member, document or part of the archive; the text; the byte of the
    archive where there is one; the hint."""

    where: str
    what: str
    at: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        place = "" if self.at is None else f", byte {self.at}"
        return f"{self.where}{place}: {self.what}"


class FaultsError(EnvelopeError):
    """Several faults of one envelope: a line for each in the message; `faults` has them as values.
    `more` were found and not kept."""

    def __init__(self, faults: Sequence[Finding], more: int = 0) -> None:
        lines = [f"{len(faults) + more} faults", *map(str, faults)]
        if more:
            lines.append(f"and {more} more")
        super().__init__("\n    ".join(lines))
        self.faults = tuple(faults)


class Signature(NamedTuple):
    """A signature with its result. `what` is "manifest.jws" or an assertion's role."""

    what: str
    ok: bool
    why: str
    fingerprint: str | None
    expires_at: str | None = None


@dataclass(slots=True)
class Report:
    """The result of `verify`. `bytes_read` counts members' data.

    `payload_hash`: "right", "wrong", "absent", "skipped", or "not compared" (a member could not be
    read, or the hash is of the decrypted payload). `more_faults` and `more_remarks` count those
    that were found and not kept.
    """

    id: str = ""
    profile: str = ""
    studies: tuple[str, ...] = ()
    members: int = 0
    instances: int = 0
    bytes_read: int = 0
    hashes: int = 0
    payload_hash: str = "absent"
    encrypted: bool = False
    decrypted: bool = False
    faults: list[Finding] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)
    more_faults: int = 0
    more_remarks: int = 0
    signatures: list[Signature] = field(default_factory=list)
    _known: set[Finding] = field(default_factory=set, repr=False)

    @property
    def ok(self) -> bool:
        """True when there is no fault."""
        return not self.faults

    def add_fault(self, problem: EnvelopeError) -> None:
        """Adds a fault, unless it is there already."""
        if isinstance(problem, Fault):
            found = Finding(problem.where, problem.what, problem.at, problem.hint)
        else:
            where, colon, what = problem.message.partition(": ")
            found = Finding(where if colon else "envelope", what or where, None, problem.hint)
        if found in self._known:
            return
        if len(self.faults) == FINDINGS_MAX:
            self.more_faults += 1
            return
        self._known.add(found)
        self.faults.append(found)

    def raise_faults(self) -> None:
        """Raises EnvelopeError with every fault; returns when there is none."""
        if len(self.faults) > 1:
            raise FaultsError(self.faults, self.more_faults)
        for one in self.faults:
            raise Fault(one.where, one.what, one.hint, at=one.at)

    def add_remark(self, where: str, what: str) -> None:
        """Adds a remark."""
        if len(self.remarks) == FINDINGS_MAX:
            self.more_remarks += 1
            return
        self.remarks.append(Finding(where, what))
