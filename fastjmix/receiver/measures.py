"""Measures one association: how much it brought, how fast, and for whom it waited.

Wanted: an administrator can tell a slow modality from a slow disk.
Guaranteed: an instance costs less than a microsecond here (`bench_measures` in
bench/bench_dicom.py), and no call of the clock: the times are those that the receiver takes anyway.

A wait has one cause at a time:

    between   the peer has not begun its next message
    inside    the peer has not sent the rest of a message, or does not read its response
    packer    the lane is full: the packer has yet to make room
    disk      an instance is complete; its status is awaited (append, fdatasync)

Time in which the receiver works, for this or for another association, belongs to none.
"""

from __future__ import annotations

import time
from math import frexp, ldexp
from typing import Final, TypedDict

BETWEEN: Final = 0
INSIDE: Final = 1
PACKER: Final = 2
DISK: Final = 3
WORK: Final = 4
"""The causes of waits. WORK is none."""

STEPS: Final = 8
"""Buckets between a time and its double: a percentile is wrong by a sixteenth at most."""


class Buckets:
    """Counts of times, by buckets whose width grows with the time."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}

    def add(self, secs: float) -> None:
        """Counts one time."""
        fraction, exponent = frexp(secs)  # the fraction is 0, or from 0.5 to 1
        bucket = exponent * (2 * STEPS) + int(fraction * (2 * STEPS))
        counts = self._counts
        counts[bucket] = counts.get(bucket, 0) + 1

    def percentile(self, part: float) -> float | None:
        """Returns the time in seconds that this part of the times do not exceed (nearest rank), as
        the middle of its bucket; None where there are no times."""
        rank = max(part * sum(self._counts.values()), 1.0)
        for bucket, count in sorted(self._counts.items(), key=lambda one: _middle(one[0])):
            rank -= count
            if rank <= 0:
                return _middle(bucket)
        return None


def _middle(bucket: int) -> float:
    exponent, step = divmod(bucket, 2 * STEPS)
    return ldexp((step + 0.5) / (2 * STEPS), exponent) if step else 0.0


class Waits(TypedDict):
    """Seconds by cause. `between` is the part of `peer` between two messages."""

    peer: float
    between: float
    packer: float
    disk: float


class Facts(TypedDict):
    """The measures of one association. `began` and `ended` are Unix seconds, `seconds` is the time
    between them. `bytes` are those of the data sets that were stored."""

    began: float
    ended: float
    seconds: float
    stored: int
    """Instances that were answered with 0000."""
    refused: int
    """Instances that were answered with another status."""
    statuses: dict[str, int]
    """Instances by status: {"0000": n, …}."""
    bytes: int
    mb_per_second: float
    pdu_bytes: int
    """The longest P-DATA-TF that came."""
    max_pdu_bytes: int
    """The length that was announced to the peer."""
    waits: Waits
    p50_ms: float | None
    """Median of the response times; None, as `p99_ms`, where no packer gave a status."""
    p99_ms: float | None


class Measures:
    """The measures of one association, which begins now.

    Times are monotonic seconds. `responses` are those of the instances to which a packer gave a
    status: from the last byte of the data set to the status.
    """

    __slots__ = (
        "_began",
        "_cause",
        "_refusals",
        "_since",
        "_waited",
        "began_at",
        "bytes",
        "refused",
        "responses",
        "stored",
    )

    def __init__(self) -> None:
        self.began_at = time.time()
        self.stored = self.refused = self.bytes = 0
        self.responses = Buckets()
        self._began = self._since = time.monotonic()
        self._cause = INSIDE
        self._waited = [0.0] * (WORK + 1)
        self._refusals: dict[int, int] = {}

    def wait(self, cause: int, now: float) -> None:
        """Notes that a wait begins, unless it lasts since before."""
        if cause != self._cause:
            self._cause = cause
            self._since = now

    def wake(self, now: float) -> float:
        """Notes that the wait is over: the receiver looks at this association. Returns the seconds
        that it lasted."""
        waited = now - self._since
        if waited > 0:
            cause = self._cause
            self._waited[cause] += waited
            if cause == DISK:
                self.responses.add(waited)
        self._cause = WORK
        self._since = now
        return waited

    def count_stored(self, size: int) -> None:
        """Counts an instance that was answered with 0000, and the bytes of its data set."""
        self.stored += 1
        self.bytes += size

    def count_refused(self, status: int) -> None:
        """Counts an instance that was answered with another status."""
        self.refused += 1
        self._refusals[status] = self._refusals.get(status, 0) + 1

    def facts(self, now: float, largest_pdu: int, max_pdu: int) -> Facts:
        """Returns all of it at the end of the association, or while it lasts.

        `largest_pdu` is the longest P-DATA-TF that came, `max_pdu` the length that was announced to
        the peer; both count as PS3.8 Annex D.1 does, without the PDU's header.
        """
        seconds = max(now - self._began, 0.0)
        waited = self._waited.copy()
        waited[self._cause] += max(now - self._since, 0.0)
        p50, p99 = self.responses.percentile(0.50), self.responses.percentile(0.99)
        return {
            "began": round(self.began_at, 3),
            "ended": round(self.began_at + seconds, 3),
            "seconds": round(seconds, 3),
            "stored": self.stored,
            "refused": self.refused,
            "statuses": self._statuses(),
            "bytes": self.bytes,
            "mb_per_second": round(self.bytes / 1e6 / seconds, 2) if seconds else 0.0,
            "pdu_bytes": largest_pdu,
            "max_pdu_bytes": max_pdu,
            "waits": {
                "peer": round(waited[BETWEEN] + waited[INSIDE], 3),
                "between": round(waited[BETWEEN], 3),
                "packer": round(waited[PACKER], 3),
                "disk": round(waited[DISK], 3),
            },
            "p50_ms": None if p50 is None else round(p50 * 1000, 2),
            "p99_ms": None if p99 is None else round(p99 * 1000, 2),
        }

    def _statuses(self) -> dict[str, int]:
        counts = {"0000": self.stored} if self.stored else {}
        return counts | {f"{status:04X}": n for status, n in sorted(self._refusals.items())}


def log_pairs(facts: Facts) -> dict[str, object]:
    """Returns the facts as the pairs of a log line: no tables, and nothing twice."""
    waits = facts["waits"]
    return {
        "bytes": facts["bytes"],
        "seconds": facts["seconds"],
        "mb_per_second": facts["mb_per_second"],
        "pdu_bytes": facts["pdu_bytes"] or None,
        "max_pdu_bytes": facts["max_pdu_bytes"],
        "wait_peer_secs": waits["peer"],
        "wait_between_secs": waits["between"],
        "wait_packer_secs": waits["packer"],
        "wait_disk_secs": waits["disk"],
        "p50_ms": facts["p50_ms"],
        "p99_ms": facts["p99_ms"],
        "statuses": ",".join(f"{status}:{n}" for status, n in facts["statuses"].items()) or None,
    }
