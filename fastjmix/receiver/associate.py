"""Decides about A-ASSOCIATE-RQs (Sta2 and Sta3): from a peer's first bytes to the answer.

Wanted: a peer is accepted by the listener's policy, and by what is left of lanes, memory and disk.
Guaranteed: no more of a request is kept than ASSOCIATE_RQ_MAX bytes; a longer one is refused by its
header. An association has a lane with memory before it is accepted. Nothing is sent and no socket
is closed here: an `Answer` says what the loop is to do. Where no place is free, `NoPlace` says
whose end would free one (displacement.py); the loop may end that association, and asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fastjmix import log
from fastjmix.dicom.associate_rq import ASSOCIATE_RQ_MAX
from fastjmix.dicom.association import CONGESTION, LOCAL_LIMIT, Accepted, Rejected, ae_titles
from fastjmix.dicom.foreign import foreign_protocol
from fastjmix.dicom.uid_names import names_of
from fastjmix.errors import ProtocolError
from fastjmix.ipc.ingest_rules import IngestRules
from fastjmix.ipc.metric_families import OTHER
from fastjmix.ipc.metrics import Metrics
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.receiver.connection import Association, Connection
from fastjmix.receiver.displacement import FullRejections
from fastjmix.receiver.lane_pool import LanePool
from fastjmix.receiver.peer_log import PeerLog
from fastjmix.receiver.reports import Reports
from fastjmix.spool import FreeSpace

_REASONS: Final[Mapping[tuple[int, int], str]] = {
    (1, 2): "application_context",
    (1, 3): "calling_ae",
    (1, 7): "called_ae",
    (2, 2): "protocol_version",
}
"""Words for the metrics, by source and reason of an A-ASSOCIATE-RJ (PS3.8 Table 9-21)."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """The bytes are no valid A-ASSOCIATE-RQ. `reason` is of PS3.8 Table 9-26."""

    reason: int
    why: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """An A-ASSOCIATE-RJ is to be sent."""

    pdu: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """The association is accepted: it has the lane `lane` and the rules `rules`. `rest` are the
    bytes that came behind the request."""

    accepted: Accepted
    rules: int
    lane: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class NoPlace:
    """No place is free, for the reason `why`. The end of an association for which `among` returns
    True would free one. `reason` is a word of metric_families.py."""

    accepted: Accepted
    rules: int
    rest: bytes
    why: str
    reason: str
    among: Callable[[Association], bool]


Answer = Invalid | Rejection | Opening | NoPlace


class AssociateRequests:
    """Answers the A-ASSOCIATE-RQs at all listeners of one receiver.

    `rows` are the rules by number, `room` the free space that it asks for.
    """

    def __init__(
        self,
        rows: Sequence[IngestRules],
        room: FreeSpace,
        shared_lanes: SharedLanes,
        metrics: Metrics,
        pool: LanePool,
        peer_log: PeerLog,
        rejections: FullRejections,
        reports: Reports,
    ) -> None:
        self._lanes = shared_lanes.passage.lanes
        self._pool = pool
        self._rejections = rejections
        self._room = room
        self._metrics = metrics
        self._rows = rows
        self._peer_log = peer_log
        self._reports = reports

    def go_by(self, rows: Sequence[IngestRules]) -> None:
        """Goes by these rules from now on: those of before, and more behind them."""
        self._rows = rows

    def receive(self, connection: Connection, data: bytes, *, draining: bool) -> Answer | None:
        """Takes the next bytes of a connection in Sta2. Returns the answer to its request; None
        while that is incomplete.
        """
        buffer = connection.received
        buffer += data
        if buffer[0] != 0x01:
            known = 0x02 <= buffer[0] <= 0x07
            foreign = foreign_protocol(bytes(buffer[:16]))
            why = "not an A-ASSOCIATE-RQ"
            if foreign is not None:
                why = f"{why} but {foreign.name}"
                connection.about["hint"] = foreign.hint
            return Invalid(2 if known else 1, why)
        if len(buffer) < 6:
            return None
        length = int.from_bytes(buffer[2:6], "big")
        if length > ASSOCIATE_RQ_MAX:
            return Invalid(6, f"an A-ASSOCIATE-RQ of {length} bytes")
        if len(buffer) < 6 + length:
            return None
        request, rest = bytes(buffer[: 6 + length]), bytes(buffer[6 + length :])
        return self._answer(connection, request, rest, draining)

    def _answer(
        self, connection: Connection, request: bytes, rest: bytes, draining: bool
    ) -> Answer:
        listener = connection.listener
        try:
            answer = listener.acceptor.answer(request)
        except ProtocolError as problem:
            called, calling = ae_titles(request)
            connection.about.update(calling_ae=calling or None, called_ae=called or None)
            return Invalid(problem.reason, problem.message)
        if isinstance(answer, Rejected):
            reason = _REASONS.get((answer.pdu[8], answer.pdu[9]), OTHER)
            return self._reject(connection, answer, answer.pdu, answer.why, reason)
        rules = listener.rules.of(answer.calling_ae)
        if congestion := self._congestion(draining):
            return self._reject(connection, answer, CONGESTION, *congestion)
        return self.place(connection, answer, rules, rest)

    def place(
        self, connection: Connection, accepted: Accepted, rules: int, rest: bytes
    ) -> Opening | NoPlace:
        """Returns the opening of an association that may be accepted, where there is a place."""
        listener, calling_ae = connection.listener, accepted.calling_ae

        def at_listener(other: Association) -> bool:
            return other.at == listener.number

        def of_caller(other: Association) -> bool:
            return at_listener(other) and other.accepted.calling_ae == calling_ae

        def no_place(why: str, reason: str, among: Callable[[Association], bool]) -> NoPlace:
            return NoPlace(accepted, rules, rest, why, reason, among)

        if self._lanes.associations(listener.number) >= listener.config.max_associations:
            return no_place("max_associations of the listener", "listener_full", at_listener)
        most = self._rows[rules].max_associations
        if most is not None:
            of_title = self._lanes.associations(listener.number, calling_ae.encode())
            if of_title >= most:
                why = "max_associations of the calling AE title"
                return no_place(why, "calling_ae_full", of_caller)
        lane = self._pool.lease()
        if lane < 0:
            why = "no lane is free (max_associations, memory)"
            return no_place(why, "no_lane", lambda _: True)
        return Opening(accepted, rules, lane, rest)

    def reject(self, connection: Connection, asked: NoPlace) -> Rejection:
        """Returns the rejection of a peer for which no place could be freed."""
        self._rejections.add()
        return self._reject(connection, asked.accepted, LOCAL_LIMIT, asked.why, asked.reason)

    def _congestion(self, draining: bool) -> tuple[str, str] | None:
        """Returns why nobody is accepted now, in words and as the metrics' word; None when somebody
        is."""
        if draining:
            return "shutting down", "shutting_down"
        if scarce := self._storage():
            return scarce
        if self._metrics.total("intake_stopped"):
            return "the storage failed repeatedly", "storage_failed"
        return None

    def _storage(self) -> tuple[str, str] | None:
        """Returns the same of what the storage directory lacks; None when it has enough."""
        try:
            if not self._room.low():
                return None
        except OSError as problem:
            return f"the storage directory cannot be used: {problem.strerror}", "disk_unusable"
        if self._room.lacking == "space":
            return "little space is left in the storage directory", "disk_space"
        return "few inodes are left in the storage directory", "disk_inodes"

    def _reject(
        self,
        connection: Connection,
        asked: Accepted | Rejected,
        pdu: bytes,
        why: str,
        reason: str,
    ) -> Rejection:
        self._metrics.add("associations_rejected_total")
        self._metrics.count("rejections_total", reason)
        self._peer_log.warning(
            "association_rejected",
            calling_ae=asked.calling_ae,
            called_ae=asked.called_ae,
            peer=connection.peer,
            why=why,
            endpoint=connection.listener.config.endpoint,
        )
        self._reports.rejection(connection, why, asked.calling_ae, asked.called_ae)
        return Rejection(pdu)


def log_accepted(association: Association) -> None:
    """Logs a new association, and the presentation contexts that were not accepted."""
    accepted = association.accepted
    log.get().info(
        "association_accepted",
        association=association.number,
        calling_ae=accepted.calling_ae,
        called_ae=accepted.called_ae,
        peer=association.peer,
        contexts=len(accepted.contexts),
        implementation=accepted.peer_implementation,
    )
    if accepted.refused:
        refused = sorted(set(accepted.refused))
        log.get().warning(
            "contexts_refused",
            association=association.number,
            calling_ae=accepted.calling_ae,
            peer=association.peer,
            abstract_syntaxes=",".join(refused),
            called_ae=accepted.called_ae,
            names=names_of(refused),
        )
