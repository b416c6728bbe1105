"""Accepts and bounds connections: the listening sockets of one receiver.

Guaranteed: a connection that cannot be had (no descriptors, no memory, a peer that is gone) costs
nothing but itself; where none can be had, the sockets are left alone until the next tick, so that
nothing spins.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections.abc import Callable, Sequence

from fastjmix import log
from fastjmix.config import Config
from fastjmix.ipc.metrics import Stats
from fastjmix.receiver.connection import Connection, Door
from fastjmix.receiver.listener import ACCEPT_BURST, door_for, teach_manners


class Listeners:
    """`connected` is told of a new connection, which `epoll` watches already; `close` ends one that
    gives way to another."""

    def __init__(
        self,
        config: Config,
        sockets: Sequence[socket.socket],
        epoll: select.epoll,
        stats: Stats,
        connected: Callable[[Connection], None],
        close: Callable[[Connection, str], None],
    ) -> None:
        self._doors = {s.fileno(): door_for(i, s, config.dicom[i]) for i, s in enumerate(sockets)}
        self._epoll = epoll
        self._stats = stats
        self._connected = connected
        self._close = close
        self._log = log.get()
        self.resting = False

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._doors

    def listen(self) -> None:
        """Watches them (again), or rests until the next tick."""
        self.resting = False
        try:
            for descriptor in self._doors:
                self._epoll.register(descriptor, select.EPOLLIN)
        except OSError:
            self._rest()

    def _rest(self) -> None:
        """Stops watching the sockets. Another socket may have said so in the same turn, or not all
        may be watched.
        """
        self.resting = True
        for descriptor in self._doors:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def tick(self) -> None:
        """Ends the rest when it is over."""
        if self.resting:
            self.listen()

    def close(self) -> None:
        """Closes the sockets. Nobody can connect any more, whoever else has them: a process that
        was forked a moment ago has yet to close its own."""
        self._rest()
        self.resting = False
        for door in self._doors.values():
            with contextlib.suppress(OSError):  # another receiver has done so
                door.socket.shutdown(socket.SHUT_RDWR)
            door.socket.close()
        self._doors = {}

    def accept(self, descriptor: int) -> None:
        """Takes the connections that wait at one of them, up to ACCEPT_BURST."""
        door = self._doors[descriptor]
        for _ in range(ACCEPT_BURST):
            try:
                accepted, address = door.socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno != errno.EINVAL:  # else another receiver stops, and so shall we
                    self._log.warning("accept_failed", why=problem.strerror)
                self._rest()
                return
            if door.full and not self._make_place(door, address[0]):
                accepted.close()
                continue
            try:
                self._enter(door, accepted, address)
            except OSError as problem:  # it is gone, or there is no memory to watch it
                self._log.warning("accept_failed", why=problem.strerror)
                accepted.close()

    def _enter(self, door: Door, accepted: socket.socket, address: tuple[str, int]) -> None:
        teach_manners(accepted)
        self._epoll.register(accepted.fileno(), select.EPOLLIN)
        host, limits = address[0], door.listener.limits
        deadline = time.monotonic() + limits.acse_timeout_secs
        connection = Connection(accepted, host, f"{host}:{address[1]}", door, limits, deadline)
        door.enter(connection)
        self._connected(connection)

    def _make_place(self, door: Door, host: str) -> bool:
        """Makes a place where max_half_open peers stand at this door: one of them goes, or (False)
        the newcomer.
        """
        self._stats.add("connections_turned_away_total")
        gives_way = door.gives_way(host)
        if gives_way is None:
            return False
        self._close(gives_way, "max_half_open, most of them from this address")
        return True
