"""Accepts connections: the listening sockets of one receiver.

Guaranteed: a connection that cannot be accepted (no descriptors, no memory, a peer that is gone)
costs only itself. Where none can be accepted, the sockets are not watched until the next tick, so
that nothing spins. A socket that outlives this process is never shut down: its peers wait in its
backlog for the next process. A new configuration takes effect between two turns of the loop.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
from collections.abc import Container, Iterator, Mapping, Sequence

from fastjmix import log
from fastjmix.ipc.channels import address_of
from fastjmix.ipc.ingest_rules import ListenerRules
from fastjmix.receiver.listener import ACCEPT_BURST, Listener, listener_for


class Listeners:
    """The listening sockets, which `epoll` watches. `resting` is True while it does not.

    `sockets` are in the order of `rules`.
    """

    def __init__(
        self,
        rules: Sequence[ListenerRules],
        sockets: Sequence[socket.socket],
        epoll: select.epoll,
        outliving: Container[tuple[str, int]] = (),
    ) -> None:
        """`outliving` are the addresses of the sockets that outlive this process."""
        self._outliving = outliving
        self._listeners = self._by_descriptor(rules, sockets)
        self._epoll = epoll
        self._waiting = False
        self._log = log.get()
        self.resting = False

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._listeners

    def listen(self) -> None:
        """Watches the sockets (again); rests until the next tick where that fails."""
        self.resting = False
        try:
            for descriptor, listener in self._listeners.items():
                if not (self._waiting and listener.outlives):
                    self._epoll.register(descriptor, select.EPOLLIN)
        except OSError:
            self._rest()

    def _rest(self) -> None:
        """Stops watching the sockets. Some of them may not have been watched: the rest may have
        begun in this turn already.
        """
        self.resting = True
        for descriptor in self._listeners:
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)

    def wait(self, waiting: bool) -> None:
        """Leaves the peers of sockets that outlive this process in their backlogs, or accepts them
        again.
        """
        if waiting is not self._waiting:
            self._waiting = waiting
            self._rest()
            self.listen()

    def tick(self) -> None:
        """Ends a rest."""
        if self.resting:
            self.listen()

    def replace(self, rules: Sequence[ListenerRules], sockets: Sequence[socket.socket]) -> None:
        """Listens at these sockets instead, by these rules. A connection that waits to be accepted
        is lost only where its address is not among them: the others are the same sockets again.
        """
        before, resting = self._listeners, self.resting
        self._rest()
        self._listeners = self._by_descriptor(rules, sockets)
        self.resting = resting
        if not resting:
            self.listen()
        for listener in before.values():
            listener.socket.close()

    @property
    def by_number(self) -> Mapping[int, Listener]:
        """The listeners, by their numbers."""
        return {listener.number: listener for listener in self._listeners.values()}

    def close(self) -> None:
        """Ends the sockets: from now on nobody can connect. Closing alone would not do: a process
        that was forked a moment ago may have yet to close its copies. One that outlives this
        process is only closed."""
        self._rest()
        self.resting = False
        for listener in self._listeners.values():
            if not listener.outlives:
                with contextlib.suppress(OSError):  # another receiver has done so
                    listener.socket.shutdown(socket.SHUT_RDWR)
            listener.socket.close()
        self._listeners = {}

    def accept(self, descriptor: int) -> Iterator[tuple[Listener, socket.socket, tuple[str, int]]]:
        """Yields the connections that wait at one of the sockets, ACCEPT_BURST at most, with their
        peers' addresses.
        """
        listener = self._listeners[descriptor]
        for _ in range(ACCEPT_BURST):
            try:
                accepted, address = listener.socket.accept()
            except BlockingIOError:
                return
            except OSError as problem:
                if problem.errno != errno.EINVAL:  # that one: another receiver has begun the drain
                    self._log.warning("accept_failed", why=problem.strerror)
                self._rest()
                return
            yield listener, accepted, address

    def _by_descriptor(
        self, rules: Sequence[ListenerRules], sockets: Sequence[socket.socket]
    ) -> dict[int, Listener]:
        return {
            one.fileno(): listener_for(own, one, outlives=address_of(one) in self._outliving)
            for own, one in zip(rules, sockets, strict=True)
        }
