"""Leads from a connection to an association: the A-ASSOCIATE-RQ is awaited and answered (Sta2).

Wanted: a peer is let in by the listener's policy and by what is left of lanes, memory and disk.
Guaranteed: no more of a request is kept than ASSOCIATE_RQ_MAX bytes; a longer one is refused by its
header; an association has a lane with memory before it is accepted, if need be that of one which
stores nothing (places.py). No socket is closed here: the loop does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fastjmix.config import Config
from fastjmix.dicom.associate_rq import ASSOCIATE_RQ_MAX
from fastjmix.dicom.association import CONGESTION, LOCAL_LIMIT, Accepted, Rejected
from fastjmix.dicom.foreign import foreign_protocol
from fastjmix.errors import ProtocolError
from fastjmix.ipc.ingest_rules import tabulate
from fastjmix.ipc.metrics import Stats
from fastjmix.ipc.wiring import Wiring
from fastjmix.receiver.connection import Connection, Door
from fastjmix.receiver.displacement import Places
from fastjmix.receiver.lane_pool import Leases
from fastjmix.receiver.listener import Notices
from fastjmix.spool import Room


class Loop(Protocol):
    """What the entrance may ask of the event loop."""

    @property
    def stopping(self) -> bool: ...
    def open(self, connection: Connection, answer: Accepted, lane: int, rest: bytes) -> None: ...
    def abort(self, connection: Connection, source: int, reason: int, why: str) -> None: ...
    def make_place(self, newcomer: Connection, among: Callable[[Connection], bool]) -> bool: ...
    def last_words(self, connection: Connection, pdu: bytes, why: str) -> None: ...
    def lost(self, connection: Connection, why: str) -> None: ...


class Entrance:
    """Answers the A-ASSOCIATE-RQs of all doors of one receiver."""

    def __init__(
        self,
        config: Config,
        wiring: Wiring,
        stats: Stats,
        leases: Leases,
        places: Places,
        loop: Loop,
    ) -> None:
        self._lanes = wiring.passage.lanes
        self._leases = leases
        self._places = places
        self._loop = loop
        self._room = Room.of(config, stats)
        self._stats = stats
        self._table = tabulate(config)
        self.notices = Notices()

    def request(self, connection: Connection) -> None:
        """Sta2: an A-ASSOCIATE-RQ, in as many pieces as the peer likes."""
        data = connection.socket.recv(65536)
        if not data:
            self._loop.lost(connection, "closed before an A-ASSOCIATE-RQ")
            return
        buffer = connection.received
        buffer += data
        if buffer[0] != 0x01:
            known = 0x02 <= buffer[0] <= 0x07
            foreign = foreign_protocol(bytes(buffer[:16]))
            why = f"not an A-ASSOCIATE-RQ but {foreign}" if foreign else "not an A-ASSOCIATE-RQ"
            self._loop.abort(connection, 2, 2 if known else 1, why)
            return
        if len(buffer) < 6:
            return
        length = int.from_bytes(buffer[2:6], "big")
        if length > ASSOCIATE_RQ_MAX:
            self._loop.abort(connection, 2, 6, f"an A-ASSOCIATE-RQ of {length} bytes")
        elif len(buffer) >= 6 + length:
            self._associate(connection, bytes(buffer[: 6 + length]), bytes(buffer[6 + length :]))

    def _associate(self, connection: Connection, request: bytes, rest: bytes) -> None:
        door = connection.door
        try:
            answer = door.acceptor.answer(request)
        except ProtocolError as problem:
            self._loop.abort(connection, 2, problem.reason, problem.message)
            return
        connection.received.clear()
        if isinstance(answer, Rejected):
            self._reject(connection, answer, answer.pdu, answer.why)
            return
        connection.settings = self._table.number(door.index, answer.calling_ae)
        congestion = self._congestion()
        if congestion:
            self._reject(connection, answer, CONGESTION, congestion)
            return
        lane = self._lane(connection, answer.calling_ae)
        if isinstance(lane, int):
            self._loop.open(connection, answer, lane, rest)
        else:
            self._places.rejected()
            self._reject(connection, answer, LOCAL_LIMIT, lane)

    def _congestion(self) -> str:
        """Returns the reason why nobody is let in; "" when somebody may be."""
        if self._loop.stopping:
            return "shutting down"
        if scarce := self._storage():
            return scarce
        if self._stats.total("intake_stopped"):
            return "the storage failed repeatedly"
        return ""

    def _lane(self, connection: Connection, calling_ae: str) -> int | str:
        """Returns a lane for the newcomer, perhaps of one that stores nothing; else why there is
        none.
        """
        found = self._free_lane(connection.door, connection.settings, calling_ae)
        if isinstance(found, int):
            return found
        why, among = found
        if self._loop.make_place(connection, among):
            found = self._free_lane(connection.door, connection.settings, calling_ae)
        return found if isinstance(found, int) else why

    def _free_lane(
        self, door: Door, settings: int, calling_ae: str
    ) -> int | tuple[str, Callable[[Connection], bool]]:
        """Returns a lane, with memory; else why there is none, and whose end would change that."""

        def same_door(other: Connection) -> bool:
            return other.door is door

        def same_caller(other: Connection) -> bool:
            accepted = other.accepted
            return other.door is door and accepted is not None and accepted.calling_ae == calling_ae

        if self._lanes.associations(door.index) >= door.listener.max_associations:
            return "max_associations of the listener", same_door
        most = self._table.rows[settings].max_associations
        if most is not None and self._lanes.associations(door.index, calling_ae.encode()) >= most:
            return "max_associations of the calling AE title", same_caller
        lane = self._leases.take()
        if lane < 0:
            return "no lane is free (max_associations, memory)", lambda _: True
        return lane

    def _storage(self) -> str:
        """Names the resource that the storage directory lacks; empty when it has enough."""
        try:
            if not self._room.low():
                return ""
        except OSError as problem:
            return f"the storage directory cannot be used: {problem.strerror}"
        left = "little space is" if self._room.lacking == "space" else "few inodes are"
        return f"{left} left in the storage directory"

    def _reject(
        self, connection: Connection, asked: Accepted | Rejected, pdu: bytes, why: str
    ) -> None:
        self._stats.add("associations_rejected_total")
        self.notices.give(
            "association_rejected",
            calling_ae=asked.calling_ae,
            called_ae=asked.called_ae,
            peer=connection.peer,
            why=why,
        )
        self._loop.last_words(connection, pdu, why)
