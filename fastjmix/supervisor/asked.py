"""Takes what a person asks of the node, by way of the api, and answers it.

Guaranteed: nothing here waits. An answer that the api does not take is dropped: it asks again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Mapping

from fastjmix import log
from fastjmix.ipc.requests import DATAGRAM_BYTES_MAX, NOBODY, Do, NodeAnswer, NodeRequest


class Asked:
    """The supervisor's end of the passage. `handlers` does what is asked for: one for each kind."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.handlers: Mapping[Do, Callable[[NodeRequest], None]] = {}

    @property
    def descriptor(self) -> int:
        """Becomes readable when something is asked."""
        return self._link.fileno()

    def serve(self) -> None:
        """Does what was asked for since the last call."""
        for request in self._taken():
            self.handlers[request.do](request)

    def end(self, why: str, generation: int) -> None:
        """Answers from now on that nothing is done, and why; to who asks for a drain, that the node
        ends, as asked."""

        def refuse(request: NodeRequest) -> None:
            ends = request.do is Do.DRAIN
            self.answer(NodeAnswer(request.id, ends, generation, () if ends else (why,)))

        self.handlers = dict.fromkeys(Do, refuse)

    def _taken(self) -> list[NodeRequest]:
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
        """Sends an answer, if somebody waits for it."""
        if answer.id == NOBODY:
            return
        with contextlib.suppress(OSError):
            self._link.send(answer.encode())
