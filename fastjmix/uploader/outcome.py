"""The outcome of one attempt to deliver an envelope, as values. The rules are in policy.py."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, assert_never

from fastjmix.ipc.outcome import EnvelopeOutcome, Result
from fastjmix.uploader.answers import Answer

DETAIL_CHARS_MAX: Final = 300
"""Characters of a reason in a log line, or in the datagram to the process that waits."""


class Disposition(Enum):
    """Ways to proceed with an envelope after an attempt."""

    DELIVERED = "delivered"
    VERIFY = "verify"
    REFUSED = "refused"
    HELD = "held"
    RETRY = "retry"


class Kind(Enum):
    """Ways in which an attempt ends without an answer."""

    UNREACHABLE = "no connection"
    UNTRUSTED = "TLS refused"
    LATE = "no answer in time"
    STALLED = "no progress"
    BROKEN = "connection broken"
    LOCAL = "our own disk or program"
    DAMAGED = "damaged on our disk"


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that got no answer. `late` is True when a time limit ended it."""

    kind: Kind
    detail: str
    late: bool = False

    @property
    def shared(self) -> bool:
        """True when the next envelope would fail, too."""
        return self.kind not in (Kind.LOCAL, Kind.DAMAGED)

    @property
    def unsent(self) -> bool:
        """True when the upstream cannot have got the whole body."""
        return self.kind in (Kind.UNREACHABLE, Kind.UNTRUSTED, Kind.LOCAL, Kind.DAMAGED)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an attempt.

    Attributes:
        disposition: how to proceed with the envelope.
        reason: one sentence for a person, without a word of the answer's body.
        status: the upstream's HTTP status; None when it gave no answer.
        answer: the answer, where there is one.
        remote_id: the upstream's id for the envelope.
        least_secs: seconds for which the upstream asked not to be tried (Retry-After).
        shared: the next envelope would fail, too.
        late: a time limit ended the attempt.
        maybe_stored: the upstream may have stored the envelope all the same.
        verified: the upstream's copy of the manifest was compared, and is equal.
        damaged: our archive is at fault, and the upstream has not seen the whole of it.
        vetoed: a hook of the site keeps the envelope from every upstream; none was asked.
        route: HELD for an answer that something else than the upstream may have given, or that
            this envelope alone gets.
    """

    disposition: Disposition
    reason: str
    status: int | None = None
    answer: Answer | None = None
    remote_id: str | None = None
    least_secs: float = 0.0
    shared: bool = False
    late: bool = False
    maybe_stored: bool = True
    verified: bool = False
    damaged: bool = False
    vetoed: bool = False
    route: bool = False

    @property
    def result(self) -> Result:
        """The outcome for a process that waits: there is no second attempt for it."""
        match self.disposition:
            case Disposition.DELIVERED:
                return Result.DELIVERED
            case Disposition.REFUSED:
                return Result.REFUSED
            case Disposition.VERIFY | Disposition.HELD | Disposition.RETRY:
                return Result.TIMEOUT if self.late else Result.FAILED
            case _:
                assert_never(self.disposition)

    def report(self, envelope_id: str) -> EnvelopeOutcome:
        """Returns the report for the process that waits for this envelope."""
        detail = self.reason[:DETAIL_CHARS_MAX]
        return EnvelopeOutcome(envelope_id, self.result, self.status, detail)
