"""Types the status of a node: GET /api/node/status, `fastjmix status --json`, and each event of the
page.

Times are Unix seconds, None where unknown; an unknown text is "".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from fastjmix.ipc.board_rows import Draining, SupervisorRow, UpstreamRow
from fastjmix.spool.selection import EnvelopeFacts
from fastjmix.spool.standing import Standpoint
from fastjmix.spool.tally import StateSum


class NodeFacts(TypedDict):
    """The node itself. `reasons` say why it is not ready. A stopped node has no pid and no
    `configuration`, which is the supervisor's row of the board."""

    name: str
    version: str
    pid: int | None
    started: float | None
    now: float
    state: str
    reasons: list[str]
    warnings: list[str]
    configuration: SupervisorRow | None
    draining: Draining | None


class AssociationRow(TypedDict):
    """An open association; `bytes` and `instances` so far. `waits_for`: peer, packer or disk."""

    id: str
    number: int
    calling_ae: str
    called_ae: str
    peer: str
    began: float | None
    bytes: int
    instances: int
    mb_per_second: float
    waits_for: str


class LaneCounts(TypedDict):
    """Lanes in use, all, and those that are full."""

    leased: int
    total: int
    stalled: int


class RateSeries(TypedDict):
    """Amounts within each step of `step_secs`, the latest last. `discarded_instances` are those of
    the received ones that a rule discarded."""

    step_secs: float
    received_mb: list[float]
    received_instances: list[float]
    discarded_instances: list[float]
    delivered_mb: list[float]
    delivered_envelopes: list[float]


class EnvelopeParts(TypedDict):
    """The envelopes by state, and rows of those that have not arrived."""

    building: StateSum
    outbox: StateSum
    held: StateSum
    rejected: StateSum
    sent: StateSum
    listed: list[EnvelopeFacts]


class DiskFacts(TypedDict):
    """Free space and its marks. A stopped node has no marks, and a file system without a number of
    inodes has None for these."""

    free_bytes: int
    total_bytes: int
    soft_mark_bytes: NotRequired[int]
    hard_mark_bytes: NotRequired[int]
    free_inodes: NotRequired[int | None]
    total_inodes: NotRequired[int | None]
    soft_mark_inodes: NotRequired[int | None]
    hard_mark_inodes: NotRequired[int | None]


class LedgerFacts(TypedDict, total=False):
    """The ledger; without fields while it has said nothing."""

    state: str
    why: str
    events_behind: int
    bytes: int


class AdvisedError(TypedDict):
    """An error of the log, `times` in a row from `at` to `last`, and what a person can do."""

    at: float
    last: float
    times: int
    process: str
    event: str
    text: str
    what_to_do: str


class RejectionFacts(TypedDict):
    """Associations that were rejected for the same reason, `times` from `at` to `last`."""

    at: float
    last: float
    times: int
    calling_ae: str
    called_ae: str
    peer: str
    why: str


class Recent(TypedDict):
    """The latest errors and rejections, newest first."""

    errors: list[AdvisedError]
    rejections: list[RejectionFacts]


class NodeStatus(TypedDict):
    """The status. A part that cannot be read is None or empty."""

    node: NodeFacts
    associations: list[AssociationRow]
    lanes: LaneCounts
    rates: RateSeries | None
    envelopes: EnvelopeParts
    upstreams: list[UpstreamRow]
    disk: DiskFacts | None
    ledger: LedgerFacts
    errors: list[AdvisedError]
    rejections: list[RejectionFacts]


def envelope_parts(
    sums: Mapping[Standpoint, StateSum], listed: list[EnvelopeFacts]
) -> EnvelopeParts:
    """Returns the part `envelopes`. Raises KeyError where a state has no sum."""
    return {
        "building": sums["building"],
        "outbox": sums["outbox"],
        "held": sums["held"],
        "rejected": sums["rejected"],
        "sent": sums["sent"],
        "listed": listed,
    }
