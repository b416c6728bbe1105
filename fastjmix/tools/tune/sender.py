"""The sender: a process for each association, the data in memory, one sendmsg(2) for some
megabytes.

Guaranteed: PDUs are as long as the acceptor announces, so that its max_pdu decides; an instance is
sent when the one before it was answered; all associations begin together. For each instance the
latency of its C-STORE-RSP is measured.
fastjmix.tools.send reads files and writes one PDU at a time, as modalities do; here that would be
measured too.
Still wrong: the processors are shared: on a small machine the sender takes time from the gateway.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final

from fastjmix.dicom.dimse import P_DATA_TF
from fastjmix.dicom.requests import (
    A_ASSOCIATE_AC_TYPE,
    A_RELEASE_RP_TYPE,
    RELEASE_RQ,
    Pair,
    accepted,
    associate_rq,
    message_id,
)
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.errors import ProtocolError
from fastjmix.tools.tune.clock import Clock
from fastjmix.tools.tune.material import Item, pairs
from fastjmix.tools.tune.processes import end, fork, receive
from fastjmix.tools.tune.wire import (
    ANSWER_SECS,
    LOOPBACK,
    PDU_HEADER,
    Buffer,
    SenderError,
    message,
    read_pdu,
    write,
)

CALLING: Final = "FASTJMIX_TUNE"

BUFFERS: Final = 512
"""Buffers in one sendmsg(2); Linux takes 1024."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One association's part: from `start` to `end` (CLOCK_MONOTONIC), and each response's
    latency in seconds, counted from its instance's first byte."""

    start: float
    end: float
    latencies: tuple[float, ...]
    limit: int  # the maximum PDU length that the acceptor announced


@dataclass(frozen=True, slots=True)
class Address:
    """The acceptor to call. One port for all associations, or one for each."""

    ports: tuple[int, ...]
    called: str


class Senders:
    """One process for each share of the items. A context manager: they end with the block."""

    def __init__(self, items: Sequence[Item], shares: Sequence[range]) -> None:
        self._parts = [[items[index] for index in share] for share in shares]
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []

    def __enter__(self) -> Senders:
        for part in self._parts:
            pipe, process = fork(_serve, part)
            self._pipes.append(pipe)
            self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._processes)
        for pipe in self._pipes:
            pipe.close()

    def send(self, address: Address, clock: Clock) -> list[Sent]:
        """Sends everything once, over all associations at once. Raises SenderError, and OutOfTime,
        after which nothing more can be sent: the processes have not finished."""
        for number, pipe in enumerate(self._pipes):
            calling = f"{CALLING}_{number}"  # no title is taken for one that comes back for a study
            pipe.send((address.ports[number % len(address.ports)], address.called, calling))
        answers = [receive(pipe, clock) for pipe in self._pipes]
        ready = [pipe for pipe, answer in zip(self._pipes, answers, strict=True) if answer is True]
        for pipe in ready:
            pipe.send(len(ready) == len(self._pipes))
        if len(ready) == len(self._pipes):
            answers = [receive(pipe, clock) for pipe in ready]
        else:
            for pipe in ready:
                receive(pipe, clock)  # the message that it did not begin
        problems = [answer for answer in answers if not isinstance(answer, Sent | bool)]
        if problems:
            raise SenderError(str(problems[0]))
        return [answer for answer in answers if isinstance(answer, Sent)]


# -- in a sending process --------------------------------------------------------------------------


def _serve(pipe: Connection, items: Sequence[Item]) -> None:
    """Sends the items whenever an address comes; answers True when associated, then a Sent."""
    while True:
        port, called, calling = pipe.recv()
        try:
            _send_all(pipe, items, port, called, calling)
        except (OSError, SenderError) as problem:
            pipe.send(f"the sender failed: {problem}")


def _send_all(
    pipe: Connection, items: Sequence[Item], port: int, called: str, calling: str
) -> None:
    with socket.create_connection((LOOPBACK, port), ANSWER_SECS) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            wire.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", ANSWER_SECS, 0))
        contexts, limit = _associate(wire, items, called, calling)
        messages = [
            _batches(message(item, contexts[item.pair], message_id(number), limit))
            for number, item in enumerate(items)
        ]
        pipe.send(True)
        if pipe.recv() is not True:
            raise SenderError("another association was not established")
        sent = _store_all(wire, items, messages, limit)
        wire.sendall(RELEASE_RQ)
        read_pdu(wire, A_RELEASE_RP_TYPE)
    pipe.send(sent)


def _store_all(
    wire: socket.socket, items: Sequence[Item], messages: Sequence[list[list[Buffer]]], limit: int
) -> Sent:
    """Writes each message and reads its response. Raises SenderError for any but Success."""
    latencies = []
    clock = time.monotonic
    start = last = clock()
    for number, (item, batches) in enumerate(zip(items, messages, strict=True)):
        for batch in batches:
            write(wire, batch)
        status = _status(wire, message_id(number))
        now = clock()
        latencies.append(now - last)
        last = now
        if status:
            raise SenderError(f"status 0x{status:04X} for {item.sop_instance}")
    return Sent(start, last, tuple(latencies), limit)


def _associate(
    wire: socket.socket, items: Sequence[Item], called: str, calling: str
) -> tuple[dict[Pair, int], int]:
    """Returns context IDs by pair, and the acceptor's maximum PDU length. Raises SenderError."""
    wanted = tuple(pairs(items))
    wire.sendall(associate_rq(wanted, called, calling))
    body = read_pdu(wire, A_ASSOCIATE_AC_TYPE)[PDU_HEADER:]
    try:
        contexts, limit = accepted(body, wanted)[:2]
    except Exception as problem:  # pynetdicom names no common base for a PDU that makes no sense
        raise SenderError(f"its A-ASSOCIATE-AC makes no sense ({problem})") from None
    refused = [pair for pair in wanted if pair not in contexts]
    if refused:
        raise SenderError(f"not accepted: SOP class {refused[0][0]} as {refused[0][1]}")
    return contexts, limit


def _batches(buffers: list[Buffer]) -> list[list[Buffer]]:
    """Returns the buffers of one sendmsg(2) after the other."""
    return [buffers[at : at + BUFFERS] for at in range(0, len(buffers), BUFFERS)]


def _status(wire: socket.socket, number: int) -> int:
    """Returns the status of the response to message `number`. Raises SenderError."""
    gathering, command = Gathering(), None
    try:
        while command is None:
            command = gathering.take(read_pdu(wire, P_DATA_TF)[PDU_HEADER:])
        response = read_response(command)
    except ProtocolError as problem:
        raise SenderError(problem.message) from None
    if response.message != number:
        raise SenderError(f"message {response.message} was answered, not {number}")
    return response.status
