"""Hands the uploader's outcomes to the requests that wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Final

from fastjmix.httpd.responses import HttpError
from fastjmix.ipc.outcome import DATAGRAM_BYTES_MAX, EnvelopeOutcome

PASSING_ON_SECS: Final = 1
"""Retry-After for an id that is being passed on: an available upstream needs less."""


class PendingOutcomes:
    """The envelopes whose outcome a request waits for. Must be made in the loop that uses it."""

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._waiting: dict[str, asyncio.Future[EnvelopeOutcome]] = {}
        receiver.setblocking(False)
        asyncio.get_running_loop().add_reader(receiver, self._read)

    @contextlib.contextmanager
    def expect(self, envelope_id: str) -> Iterator[asyncio.Future[EnvelopeOutcome]]:
        """Lends a future for the outcome of an envelope.

        Raises HttpError 503 when another request waits for it already. 409 would mean that the
        envelope is here and needs no other copy. Before the outcome nobody knows: the first
        request may still fail, or the upstream refuse.
        """
        if envelope_id in self._waiting:
            reason = f"envelope {envelope_id} is being passed on already: try again later"
            raise HttpError(503, reason, {"Retry-After": str(PASSING_ON_SECS)})
        future = asyncio.get_running_loop().create_future()
        self._waiting[envelope_id] = future
        try:
            yield future
        finally:
            del self._waiting[envelope_id]

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                outcome = EnvelopeOutcome.decode(self._receiver.recv(DATAGRAM_BYTES_MAX))
                future = self._waiting.get(outcome.envelope_id)
                if future is not None and not future.done():
                    future.set_result(outcome)

    def close(self) -> None:
        """Reads the socket no longer. It stays open."""
        asyncio.get_running_loop().remove_reader(self._receiver)
