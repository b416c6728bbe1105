"""Passage uploader → the process that waits for an envelope: one datagram is one outcome.

Guaranteed: this module alone encodes and decodes it. A datagram is a JSON object:

    id        text            the envelope's id
    outcome   text            a value of Result
    status    number | null   the upstream's HTTP status; null when no answer came
    detail    text            the reason, for a person
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import orjson

DATAGRAM_BYTES_MAX: Final = 4096
"""An id takes some 40 bytes and a detail of 300 characters at most 1800."""


class Result(StrEnum):
    """The end of an upload for which a process waits. The values are those of the datagram."""

    DELIVERED = "delivered"
    REFUSED = "refused"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class EnvelopeOutcome:
    """The outcome of one envelope. `status` is the upstream's; None when it gave no answer."""

    envelope_id: str
    result: Result
    status: int | None
    detail: str

    def encode(self) -> bytes:
        """Returns the datagram."""
        return orjson.dumps(
            {
                "id": self.envelope_id,
                "outcome": self.result.value,
                "status": self.status,
                "detail": self.detail,
            }
        )

    @classmethod
    def decode(cls, datagram: bytes) -> EnvelopeOutcome:
        """Returns the outcome that `encode` made a datagram of. Raises ValueError, KeyError."""
        found = orjson.loads(datagram)
        return cls(found["id"], Result(found["outcome"]), found["status"], found["detail"])
