"""The floor: acceptors that discard what they receive.

Sending to them measures the sender and the loopback alone.

Guaranteed: an acceptor negotiates as the gateway does, and looks at no byte of an instance: it
counts bytes, and its responses are made beforehand.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Final

from fastjmix._core import parse_command
from fastjmix.dicom.association import Acceptor, Policy
from fastjmix.dicom.dimse import Status, p_data, response
from fastjmix.dicom.requests import (
    A_RELEASE_RQ_TYPE,
    ANSWER_MAX_PDU,
    RELEASE_RP,
    message_id,
    store_rq,
)
from fastjmix.tools.tune.material import Item, pairs
from fastjmix.tools.tune.processes import end, fork
from fastjmix.tools.tune.sender import Address
from fastjmix.tools.tune.wire import LOOPBACK, message, read_pdu

CALLED: Final = "FLOOR"
A_ASSOCIATE_RQ_TYPE: Final = 0x01
BUFFER_BYTES: Final = 1 << 20


class Floor:
    """An acceptor for each share of the items. A context manager: they end with the block."""

    def __init__(self, items: Sequence[Item], shares: Sequence[range], max_pdu: int) -> None:
        self._items, self._shares, self._max_pdu = items, shares, max_pdu
        self._processes: list[BaseProcess] = []
        self._ports: list[int] = []

    @property
    def address(self) -> Address:
        """Returns where the acceptors listen."""
        return Address(tuple(self._ports), CALLED)

    def __enter__(self) -> Floor:
        for share in self._shares:
            items = [self._items[index] for index in share]
            with socket.create_server((LOOPBACK, 0)) as listening:
                self._ports.append(listening.getsockname()[1])
                pipe, process = fork(_accept, items, listening, self._max_pdu)
            pipe.close()
            self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        end(self._processes)


def _accept(
    pipe: Connection, items: Sequence[Item], listening: socket.socket, max_pdu: int
) -> None:
    """Accepts one association after another; each brings all the items."""
    pipe.close()
    acceptor = Acceptor(
        Policy(CALLED, True, None, max_pdu, enable_store=True, enable_echo=False)
    )  # fmt: skip
    exchanges = _exchanges(items, max_pdu)
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while True:
        wire, _ = listening.accept()
        with wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.sendall(acceptor.answer(read_pdu(wire, A_ASSOCIATE_RQ_TYPE)).pdu)
            for size, answer in exchanges:
                _discard(wire, size, buffer)
                wire.sendall(answer)
            read_pdu(wire, A_RELEASE_RQ_TYPE)
            wire.sendall(RELEASE_RP)


def _exchanges(items: Sequence[Item], max_pdu: int) -> list[tuple[int, bytes]]:
    """Returns for each item how many bytes its message has, and the response to it."""
    contexts = {pair: 2 * number + 1 for number, pair in enumerate(pairs(items))}
    found = []
    for number, item in enumerate(items):
        context = contexts[item.pair]
        size = sum(map(len, message(item, context, message_id(number), max_pdu)))
        request = parse_command(store_rq(item.sop_class, item.sop_instance, message_id(number)))
        answer = p_data(context, response(request, Status.SUCCESS), ANSWER_MAX_PDU)
        found.append((size, answer))
    return found


def _discard(wire: socket.socket, size: int, buffer: memoryview) -> None:
    """Reads so many bytes, or to the end."""
    while size:
        got = wire.recv_into(buffer, min(size, len(buffer)))
        if not got:
            return
        size -= got
