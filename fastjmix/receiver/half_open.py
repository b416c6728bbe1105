"""Bounds the connections of one listener that have no association yet (Sta2).

Guaranteed: there are no more than max_half_open. When there are that many, a newcomer takes the
place of the oldest connection of the address with most of them, if its own address has fewer; else
the newcomer is closed. So an address that connects and sends nothing costs little, and keeps no
other address out.
Still wrong: behind NAT all peers have one address, and share its part; behind a proxy too, unless
it names them (proxy_protocol_from).
"""

from __future__ import annotations

from collections import Counter

from fastjmix.receiver.connection import Connection


class HalfOpen:
    """The half-open connections of one listener, oldest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Connection, None] = {}
        self._by_host: Counter[str] = Counter()

    def allow(self, most: int) -> None:
        """Changes the bound. Connections past it stay until their time is up."""
        self._most = most

    def add(self, connection: Connection) -> None:
        """Adds a connection that was accepted."""
        self._connections[connection] = None
        self._by_host[connection.host] += 1

    def remove(self, connection: Connection) -> None:
        """Removes a connection that leaves Sta2."""
        del self._connections[connection]
        self._leave(connection.host)

    def readdress(self, connection: Connection, host: str) -> None:
        """Gives a connection the address of the client that its proxy has named."""
        self._leave(connection.host)
        connection.host = host
        self._by_host[host] += 1

    @property
    def is_full(self) -> bool:
        """True when one must be closed before another is added."""
        return len(self._connections) >= self._most

    def to_close_for(self, host: str) -> Connection | None:
        """Returns the connection to close for a newcomer from `host`; None when the newcomer is to
        be closed.
        """
        most = max(self._by_host, key=lambda one: self._by_host[one])
        if self._by_host[host] + 1 >= self._by_host[most]:
            return None
        return next(one for one in self._connections if one.host == most)

    def _leave(self, host: str) -> None:
        """Counts one connection less of an address."""
        self._by_host[host] -= 1
        if not self._by_host[host]:
            del self._by_host[host]
