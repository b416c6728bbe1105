"""Takes what a person asks of the node, by way of the api, and answers it.

Guaranteed: nothing here waits. An answer that the api does not take is dropped: it asks again.
"""

from __future__ import annotations

import contextlib
import socket

from fastjmix import log
from fastjmix.ipc.requests import DATAGRAM_BYTES_MAX, NodeAnswer, NodeRequest


class Asked:
    """The supervisor's end of the passage."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    @property
    def descriptor(self) -> int:
        """Becomes readable when something is asked."""
        return self._link.fileno()

    def take(self) -> list[NodeRequest]:
        """Returns the requests that have come."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                datagram = self._link.recv(DATAGRAM_BYTES_MAX)
                try:
                    found.append(NodeRequest.decode(datagram))
                except (ValueError, KeyError, TypeError):
                    log.get().error("request_unreadable", bytes=len(datagram))
        return found

    def answer(self, answer: NodeAnswer) -> None:
        """Sends an answer."""
        with contextlib.suppress(OSError):
            self._link.send(answer.encode())
