"""The event loop of one receiver: sockets, timers, and the states of every connection.

Wanted: one thread that is never blocked by one peer.
Guaranteed: every wait for a peer has a deadline; a full lane stops the reading of its socket only;
a response leaves in one send(2).
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Final

from fastjmix import _core, log
from fastjmix._core import PdvScanner
from fastjmix.config import Config
from fastjmix.dicom.association import RELEASE_RP, Accepted, abort_pdu
from fastjmix.ipc.channels import Links
from fastjmix.ipc.wiring import Wiring
from fastjmix.receiver.associate import Entrance
from fastjmix.receiver.connection import ANSWERS_A_TURN, GRANT_SECS, Connection, State
from fastjmix.receiver.displacement import HOLD_SECS, Places, gives_way
from fastjmix.receiver.lane_pool import Leases
from fastjmix.receiver.listener import CLOSING_MAX
from fastjmix.receiver.listeners import Listeners
from fastjmix.receiver.messages import Messages

TICK_SECS: Final = 0.5
"""How often deadlines are looked at."""

GRANT_TURNS: Final = 400
"""Looks at the waiting lanes before the sockets are asked again; about 20 µs."""

RECEIVE_BYTES: Final = 65536
"""Bytes of one recv(2): the packer takes them up while the next are copied. With 1 MB the hand-over
began only when the instance was complete: measured 1.31 against 1.06 times the C prototype."""

BURST: Final = 16
"""recv(2)s of one connection before its events are looked at: a megabyte."""

EVENTS: Final = 4
"""Events of one connection before the others are looked at: command, head and end of an instance,
and the next command."""

SPIN_SECS: Final = 0.0005
"""After the last event: how long to look for the next without sleeping. Longer than a response's
way to the sender and back, shorter than a disk's fdatasync(2): 2 ms were no quicker, and spent in
vain for each image that waited for the disk (bench/PROFILES.md, P6: the receiver's processor)."""

ALONE_SECS: Final = 0.05
"""So long must one association have been the only busy one before we spin for it. With several the
others' work fills the wait, and a receiver that spins takes the processor from those whom it waits
for: 4 storescu on two cores take up to 1.2 times as long (ARCHITECTURE.md, "Waking")."""


class Receiver:
    """The event loop of one receiver process. `number` counts receivers from 0."""

    def __init__(
        self,
        config: Config,
        number: int,
        wiring: Wiring,
        links: Links,
        sockets: Sequence[socket.socket],
    ) -> None:
        self._number = number
        self._wiring = wiring
        self._lanes = wiring.passage.lanes
        self._links = links
        self._stats = links.stats
        self._log = log.get()
        self._messages = Messages(wiring, links.stats, self)
        self._grace = config.runtime.grace_secs
        self._epoll = select.epoll()
        self._listeners = Listeners(
            config, sockets, self._epoll, links.stats, self._connected, self._close
        )
        self._connections: dict[int, Connection] = {}
        self._closing: dict[Connection, None] = {}
        self._waiting: list[Connection] = []
        self._stalled: list[Connection] = []
        self._lingering: list[Connection] = []
        self._leases = Leases(wiring, number)
        self._places = Places(links.stats)
        self._entrance = Entrance(config, wiring, links.stats, self._leases, self._places, self)
        self._stopping_at: float | None = None
        self._next_tick = 0.0
        self._last_event = 0.0
        self._busy: Connection | None = None
        self._shared_at = 0.0

    # -- the loop ----------------------------------------------------------------------------

    def run(self) -> None:
        """Serves until the stop descriptor is readable and the instances in flight are done."""
        self._leases.reclaim()
        wake = self._wiring.wake[self._number]
        for descriptor in (wake, self._links.stop):
            self._epoll.register(descriptor, select.EPOLLIN)
        self._listeners.listen()
        while self._stopping_at is None or self._connections or self._lingering:
            for descriptor, event in self._wait():
                if descriptor == wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(wake)
                elif descriptor in self._connections:  # not closed by an event before it
                    self._serve(self._connections[descriptor], event)
                elif descriptor == self._links.stop:
                    self._begin_stop()
                elif descriptor in self._listeners:
                    self._listeners.accept(descriptor)
            self._collect()
            now = time.monotonic()
            if now >= self._next_tick:
                self._tick(now)

    def _wait(self) -> list[tuple[int, int]]:
        """Events of the sockets; spins a little while an association is live, then sleeps."""
        live = self._connections or self._lingering
        if not live:
            waits = self._leases.busy or self._listeners.resting or self._entrance.notices.untold
            return self._epoll.poll(TICK_SECS if waits else -1)
        alone = self._last_event - self._shared_at >= ALONE_SECS
        if self._waiting and alone:
            scanners = [c.scanner for c in self._waiting if c.scanner is not None]
            if _core.await_grants(scanners, GRANT_TURNS) >= 0:
                self._last_event = time.monotonic()
                self._collect()
        events = self._epoll.poll(0)
        now = time.monotonic()
        if events:
            self._last_event = now
            return events
        if alone and now - self._last_event < SPIN_SECS:
            os.sched_yield()
            return []
        self._lanes.doze(self._number)
        try:
            if self._something_to_collect():
                return []
            events = self._epoll.poll(max(self._next_tick - now, 0))
        finally:
            self._lanes.rouse(self._number)
        self._last_event = time.monotonic()
        return events

    def _something_to_collect(self) -> bool:
        """Asked after saying that we sleep: whoever changes it from now on wakes us."""
        return any(
            c.scanner is not None and c.scanner.granted for c in (*self._waiting, *self._lingering)
        ) or any(c.scanner is not None and not c.scanner.stalled for c in self._stalled)

    @property
    def stopping(self) -> bool:
        """True while draining: no new association is let in."""
        return self._stopping_at is not None

    def _begin_stop(self) -> None:
        self._epoll.unregister(self._links.stop)
        self._stopping_at = time.monotonic() + self._grace
        self._listeners.close()
        for connection in list(self._connections.values()):
            self._stop_if_between_messages(connection)

    def _stop_if_between_messages(self, connection: Connection) -> None:
        """While draining: an association with nothing in flight is ended."""
        scanner = connection.scanner
        if connection.state is not State.OPEN:
            self._close(connection, "shutting down")
        elif connection.request is None and scanner is not None and not scanner.midway:
            self.abort(connection, 2, 0, "shutting down")

    def _tick(self, now: float) -> None:
        self._next_tick = now + TICK_SECS
        for connection in list(self._connections.values()):
            self._guarded(self._look_at_the_clock, connection)
        self._entrance.notices.tick(now)
        self._leases.tick(now)
        self._listeners.tick()
        if self._places.others_rejected():
            self._displace(None, lambda _: True)

    def _look_at_the_clock(self, connection: Connection) -> None:
        now = time.monotonic()
        if self._stopping_at is not None and now >= self._stopping_at:
            self.abort(connection, 2, 0, "shutting down: grace_secs is over")
        elif now >= connection.deadline:
            self._expire(connection)
        elif connection.state is State.OPEN and not connection.keeps_pace(now):
            self.abort(connection, 0, 0, "slower than min_bytes_per_sec")

    def _expire(self, connection: Connection) -> None:
        if connection.state is State.OPEN:
            midway = connection.scanner is not None and connection.scanner.midway
            why = "stalled inside a message" if midway or connection.outgoing else "idle"
            if connection in self._waiting:
                why = "no status from the packer in time"
            elif connection.stalled:
                why = "no room in the lane in time: the packer is behind"
            self.abort(connection, 0, 0, why)
        else:
            self._close(connection, "ARTIM timer expired")

    # -- connections -------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        self._connections[connection.socket.fileno()] = connection

    def _serve(self, connection: Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT:
                self._flush(connection)
            if not event & ~select.EPOLLOUT or connection.state is State.CLOSED:
                return
            if connection.stalled and event & (select.EPOLLHUP | select.EPOLLERR):
                self.lost(connection, "connection reset")  # would be reported for ever
            elif connection.state is State.OPEN:
                self._receive(connection)
            elif connection.state is State.AWAITING:
                self._entrance.request(connection)
            else:
                self._await_close(connection)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as problem:
            self.lost(connection, problem.strerror or str(problem))
        except Exception as problem:
            self._failed(connection, problem)

    def _failed(self, connection: Connection, problem: Exception) -> None:
        """A fault of ours costs one association, not the others."""
        self._log.exception("connection_failed", peer=connection.peer, why=repr(problem))
        with contextlib.suppress(OSError):
            self.abort(connection, 2, 0, "a fault of fastjmix")

    def _await_close(self, connection: Connection) -> None:
        """Sta13: whatever still comes is thrown away."""
        if not connection.socket.recv(65536):
            self._close(connection, connection.why)

    def open(self, connection: Connection, answer: Accepted, lane: int, rest: bytes) -> None:
        """Sta6: the association has its lane; bytes that came with the request go there."""
        connection.door.leave(connection)
        connection.association = self._lanes.new_association()
        connection.accepted = answer
        connection.state = State.OPEN
        connection.stored_at = time.monotonic()
        self._lanes.open(
            lane, connection.association, connection.door.index, answer.calling_ae.encode()
        )
        scanner = PdvScanner(self._lanes, lane, connection.door.listener.max_pdu)
        connection.scanner = scanner
        self._stats.add("associations_accepted_total")
        self._stats.add("associations_open")
        self._log.info(
            "association_accepted",
            association=connection.association,
            calling_ae=answer.calling_ae,
            called_ae=answer.called_ae,
            peer=connection.peer,
            contexts=len(answer.contexts),
            implementation=answer.peer_implementation,
        )
        if answer.refused:
            self._log.warning(
                "contexts_refused",
                association=connection.association,
                calling_ae=answer.calling_ae,
                peer=connection.peer,
                abstract_syntaxes=",".join(sorted(set(answer.refused))),
            )
        self.send(connection, answer.pdu)
        self._touch(connection)
        if rest and connection.state is State.OPEN:
            view = scanner.reserve(len(rest))
            view[:] = rest
            scanner.commit(len(rest))
            self._messages.advance(connection, scanner, scanner.scan())
        self._after(connection, scanner)

    # -- data transfer (Sta6) ----------------------------------------------------------------

    def _receive(self, connection: Connection) -> None:
        """Takes what the socket has, piece by piece, so that the packer can begin."""
        scanner = connection.scanner
        assert scanner is not None
        if connection is not self._busy:
            if self._busy is not None and self._busy.state is State.OPEN:
                self._shared_at = self._last_event
            self._busy = connection
        for _ in range(EVENTS):
            event = scanner.receive(connection.socket.fileno(), RECEIVE_BYTES, BURST)
            if scanner.closed:
                self.lost(connection, "connection closed")
                return
            self._messages.advance(connection, scanner, event)
            if scanner.drained or scanner.blocked or connection.outgoing or connection.answered:
                break
            if connection.state is not State.OPEN:
                return
        if connection.state is State.OPEN:
            if connection not in self._waiting:
                self._touch(connection)
            self._after(connection, scanner)

    def _after(self, connection: Connection, scanner: PdvScanner) -> None:
        """What a connection's state asks for after its messages were handled."""
        if connection.state is not State.OPEN:
            return
        if scanner.blocked or scanner.stalled or connection.answered >= ANSWERS_A_TURN:
            self._stall(connection)
        elif connection.request is None and not scanner.midway and not connection.outgoing:
            connection.deadline = time.monotonic() + connection.limits.network_timeout_secs
            if self._stopping_at is not None:
                self._stop_if_between_messages(connection)
        connection.answered = 0

    def released(self, connection: Connection) -> None:
        """A-RELEASE-RQ: answered; the peer closes (Sta13)."""
        self.send(connection, RELEASE_RP)
        self._end_association(connection, "released")
        if connection.state is State.OPEN:
            self._await_the_close(connection)

    def make_place(self, newcomer: Connection, among: Callable[[Connection], bool]) -> bool:
        """Ends an association that stores nothing, for the newcomer's. False: there is none."""
        return self._displace(newcomer.host, among)

    def _displace(self, host: str | None, among: Callable[[Connection], bool]) -> bool:
        found = gives_way(self._connections.values(), time.monotonic(), among, host)
        if found is None:
            return False
        self._stats.add("associations_displaced_total")
        self._guarded(self._give_place, found)
        return True

    def _give_place(self, connection: Connection) -> None:
        self.abort(connection, 0, 0, f"stored nothing for {HOLD_SECS:.0f} s, and others wait")

    def aborted_by_peer(self, connection: Connection) -> None:
        """A-ABORT: nothing is answered."""
        self._stats.add("associations_aborted_total")
        self._end_association(connection, "aborted by the peer")
        self._close(connection, "aborted by the peer")

    def await_grant(self, connection: Connection) -> None:
        """A packer has the instance; `_collect` sees when it has its status."""
        listener = connection.door.listener
        patience = GRANT_SECS
        if listener.ack == "uploaded":
            # An upload of the envelope (one instance and its documents), and a 409 to verify.
            size = connection.scanner.data_bytes if connection.scanner is not None else 0
            patience += listener.upstream.attempt_secs(size)
        connection.deadline = time.monotonic() + patience
        self._waiting.append(connection)

    def _touch(self, connection: Connection) -> None:
        connection.deadline = time.monotonic() + connection.limits.dimse_timeout_secs

    # -- grants ------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Responses that packers have granted; lanes that have room again; lanes to give back."""
        if self._waiting:
            for connection in [c for c in self._waiting if c.scanner and c.scanner.granted]:
                self._waiting.remove(connection)
                self._guarded(self._granted, connection)
        if self._stalled:
            for connection in [c for c in self._stalled if c.scanner and not c.scanner.stalled]:
                self._guarded(self._unstall, connection)
        if self._lingering:
            for connection in [c for c in self._lingering if c.scanner and c.scanner.granted]:
                self._lingering.remove(connection)
                self._free_lane(connection)

    def _guarded(self, step: Callable[[Connection], None], connection: Connection) -> None:
        try:
            step(connection)
        except Exception as problem:
            self._failed(connection, problem)

    def _granted(self, connection: Connection) -> None:
        scanner = connection.scanner
        assert scanner is not None
        self._touch(connection)
        self._messages.granted(connection, scanner)
        self._after(connection, scanner)

    def _stall(self, connection: Connection) -> None:
        if not connection.stalled:
            connection.stalled = True
            self._stalled.append(connection)
            if connection not in self._waiting:
                connection.deadline = time.monotonic() + GRANT_SECS
            if connection.scanner is not None:
                connection.scanner.starve()
            self._epoll.modify(connection.socket.fileno(), 0)

    def _unstall(self, connection: Connection) -> None:
        self._stalled.remove(connection)
        connection.stalled = False
        if connection not in self._waiting:
            self._touch(connection)
        self._interest(connection)
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        """What arrived is looked at further; not while the peer has a response to read."""
        scanner = connection.scanner
        if connection.state is State.OPEN and scanner is not None and not connection.outgoing:
            self._messages.advance(connection, scanner, scanner.scan())
            self._after(connection, scanner)

    # -- sending and ending ------------------------------------------------------------------

    def send(self, connection: Connection, data: bytes) -> None:
        """One send(2) for a response; what the kernel does not take waits for EPOLLOUT."""
        if not connection.outgoing:
            try:
                sent = connection.socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as problem:
                self.lost(connection, problem.strerror or str(problem))
                return
            if sent == len(data):
                return
            data = data[sent:]
        connection.outgoing += data
        self._interest(connection)

    def _flush(self, connection: Connection) -> None:
        data = bytes(connection.outgoing)
        connection.outgoing.clear()
        self.send(connection, data)
        if connection.socket.fileno() < 0 or connection.outgoing:
            return
        self._interest(connection)
        if not connection.stalled:
            self._go_on(connection)

    def _interest(self, connection: Connection) -> None:
        events = 0 if connection.stalled else select.EPOLLIN
        if connection.outgoing:
            events = select.EPOLLOUT  # who does not read its responses is not read either
        self._epoll.modify(connection.socket.fileno(), events)

    def abort(self, connection: Connection, source: int, reason: int, why: str) -> None:
        """A-ABORT, and the end of the association if there was one."""
        self._stats.add("associations_aborted_total")
        if connection.accepted is None:
            self._entrance.notices.give("connection_aborted", peer=connection.peer, why=why)
        if connection.state is not State.CLOSING:
            self._end_association(connection, f"aborted: {why}")
            self.last_words(connection, abort_pdu(source, reason), why)
        else:
            self._close(connection, why)

    def last_words(self, connection: Connection, pdu: bytes, why: str) -> None:
        """Sends, then waits for the peer to close (Sta13), so that it can read what was sent."""
        connection.why = why
        if connection.socket.fileno() < 0:
            return
        connection.door.leave(connection)
        connection.received.clear()
        self._await_the_close(connection)
        self.send(connection, pdu)
        if self._stopping_at is not None:
            self._close(connection, why)
        elif connection.socket.fileno() >= 0 and not connection.outgoing:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)

    def _await_the_close(self, connection: Connection) -> None:
        """Sta13, bounded in time and in number."""
        connection.state = State.CLOSING
        connection.deadline = time.monotonic() + connection.limits.acse_timeout_secs
        self._closing[connection] = None
        if len(self._closing) > CLOSING_MAX:
            longest = next(iter(self._closing))
            self._close(longest, longest.why)

    def lost(self, connection: Connection, why: str) -> None:
        if connection.state is State.OPEN:
            self._stats.add("associations_aborted_total")
        self._end_association(connection, f"lost: {why}")
        self._close(connection, why)

    def _end_association(self, connection: Connection, how: str) -> None:
        """The association is over: its lane is given back as soon as no packer looks at it."""
        scanner = connection.scanner
        if scanner is None or connection.ended:
            return
        connection.ended = True
        self._stats.add("associations_open", -1)
        assert connection.accepted is not None
        self._log.info(
            "association_ended",
            association=connection.association,
            calling_ae=connection.accepted.calling_ae,
            peer=connection.peer,
            how=how,
            stored=connection.stored,
            refused=connection.refused or None,
        )
        for listed in (self._waiting, self._stalled):
            if connection in listed:
                listed.remove(connection)
        held = scanner.abort()
        if scanner.wake:
            self._messages.wake_packers(scanner)
        if held:
            self._lingering.append(connection)
        else:
            self._free_lane(connection)

    def _free_lane(self, connection: Connection) -> None:
        scanner = connection.scanner
        assert scanner is not None
        connection.scanner = None
        self._leases.give_back(scanner.index)

    def _close(self, connection: Connection, why: str) -> None:
        descriptor = connection.socket.fileno()
        if descriptor < 0:
            return
        connection.door.leave(connection)
        self._closing.pop(connection, None)
        self._end_association(connection, why)
        self._connections.pop(descriptor, None)
        self._epoll.unregister(descriptor)
        connection.socket.close()
        connection.state = State.CLOSED


def run(
    config: Config,
    number: int,
    wiring: Wiring,
    links: Links,
    sockets: Sequence[socket.socket],
) -> None:
    """The receiver process: returns when it has drained."""
    Receiver(config, number, wiring, links, sockets).run()
