"""The sender, and the floor under it: both so lean that it is the gateway that is measured.

Wanted: one process an association, the data in memory, one sendmsg(2) for some megabytes; for each
instance how long its C-STORE-RSP let the sender wait.
Guaranteed: PDUs are as long as the acceptor announces and no longer, so that its max_pdu decides;
an instance is sent when the one before it was answered; all associations begin together. The floor
is an acceptor that throws away what it gets and knows beforehand when to answer: what is then
measured is the sender and the loopback alone. Why not fastjmix.tools.send: it reads files, and
writes one PDU at a time, as modalities do; here that would be measured too.
Still wrong: the processors are shared: on a small machine the sender takes time from the gateway.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final

from fastjmix.dicom.dataset import IMPLEMENTATION_CLASS_UID
from fastjmix.dicom.dimse import NO_DATA_SET, command_set, p_data
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.errors import FastjmixError, ProtocolError
from fastjmix.tools.tune.clock import Clock
from fastjmix.tools.tune.material import Item, pairs

LOOPBACK: Final = "127.0.0.1"
APPLICATION_CONTEXT: Final = b"1.2.840.10008.3.1.1.1"
CALLING: Final = "FASTJMIX_TUNE"
ANSWER_SECS: Final = 60
"""For each answer: more than a very slow disk needs for one instance."""

PIECES: Final = 512
"""Buffers in one sendmsg(2); Linux takes 1024."""

OUR_MAX_PDU: Final = 16_384
HEADERS: Final = 12  # of a PDU (6) and of its one PDV (6)
PR_SET_PDEATHSIG: Final = 1
RELEASE_RQ: Final = bytes((5, 0, 0, 0, 0, 4, 0, 0, 0, 0))
RELEASE_RP: Final = bytes((6, 0, 0, 0, 0, 4, 0, 0, 0, 0))

_Buffer = bytes | memoryview


class SenderError(FastjmixError):
    """An association of the measurement broke, or an instance was not accepted."""


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
    """Whom to call. One port for all associations, or one for each."""

    ports: tuple[int, ...]
    called: str


# -- the processes ---------------------------------------------------------------------------------


class Senders:
    """One process for each share of the items. A context manager: they end with the block."""

    def __init__(self, items: Sequence[Item], shares: Sequence[range]) -> None:
        self._parts = [[items[index] for index in share] for share in shares]
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def __enter__(self) -> Senders:
        for part in self._parts:
            pipe, process = _fork(_serve, part)
            self._pipes.append(pipe)
            self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def send(self, address: Address, clock: Clock) -> list[Sent]:
        """Sends everything once, over all associations at once. Raises SenderError, and OutOfTime,
        after which nothing more can be sent: the processes are still at it."""
        for number, pipe in enumerate(self._pipes):
            calling = f"{CALLING}_{number}"  # that none seems to come back for another's study
            pipe.send((address.ports[number % len(address.ports)], address.called, calling))
        told = [_told(pipe, clock) for pipe in self._pipes]
        ready = [pipe for pipe, word in zip(self._pipes, told, strict=True) if word is True]
        for pipe in ready:
            pipe.send(len(ready) == len(self._pipes))
        if len(ready) == len(self._pipes):
            told = [_told(pipe, clock) for pipe in ready]
        else:
            for pipe in ready:
                _told(pipe, clock)  # that it did not begin
        problems = [word for word in told if not isinstance(word, Sent | bool)]
        if problems:
            raise SenderError(str(problems[0]))
        return [word for word in told if isinstance(word, Sent)]


class Floor:
    """An acceptor for each share that does nothing with what it gets."""

    def __init__(self, items: Sequence[Item], shares: Sequence[range], max_pdu: int) -> None:
        self._items, self._shares, self._max_pdu = items, shares, max_pdu
        self._processes: list[Any] = []
        self._ports: list[int] = []

    @property
    def address(self) -> Address:
        return Address(tuple(self._ports), "FLOOR")

    def __enter__(self) -> Floor:
        for share in self._shares:
            part = [self._items[index] for index in share]
            with socket.create_server((LOOPBACK, 0)) as listening:
                self._ports.append(listening.getsockname()[1])
                pipe, process = _fork(_swallow, part, listening, self._max_pdu)
            pipe.close()
            self._processes.append(process)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()


def _fork(work: Any, *arguments: Any) -> tuple[Any, Any]:
    """A child that runs `work(pipe, *arguments)` and dies with this process. What it is given is
    inherited, not copied: call it before there are threads."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=_child, args=(os.getpid(), work, theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _child(parent: int, work: Any, *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:
        work(*arguments)


def _told(pipe: Any, clock: Clock) -> object:
    try:
        while not pipe.poll(max(0.0, clock.left())):
            clock.require("instances were still being sent")
        return pipe.recv()
    except EOFError:
        return "a sending process ended without a word"


# -- the sender ------------------------------------------------------------------------------------


def _serve(pipe: Connection, items: Sequence[Item]) -> None:
    while True:
        port, *titles = pipe.recv()
        try:
            _send_all(pipe, items, port, titles)
        except (OSError, SenderError) as problem:
            pipe.send(f"the sender failed: {problem}")


def _send_all(pipe: Connection, items: Sequence[Item], port: int, titles: Sequence[str]) -> None:
    with socket.create_connection((LOOPBACK, port), ANSWER_SECS) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        wire.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            wire.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", ANSWER_SECS, 0))
        contexts, limit = _associate(wire, items, titles)
        messages = [_message(item, contexts, number, limit) for number, item in enumerate(items)]
        pipe.send(True)
        if pipe.recv() is not True:  # another association was not established
            raise SenderError("another association was not established")
        latencies = []
        clock = time.monotonic
        start = last = clock()
        for number, (item, pieces) in enumerate(zip(items, messages, strict=True)):
            for batch in pieces:
                _write(wire, batch)
            status = _status(wire, _message_id(number))
            now = clock()
            latencies.append(now - last)
            last = now
            if status:
                raise SenderError(f"status 0x{status:04X} for {item.sop_instance}")
        wire.sendall(RELEASE_RQ)
        _pdu(wire, 6)
    pipe.send(Sent(start, last, tuple(latencies), limit))


def _associate(
    wire: socket.socket, items: Sequence[Item], titles: Sequence[str]
) -> tuple[Any, int]:
    """Context IDs by pair, and the acceptor's maximum PDU length (PS3.8 §9.3.2, §9.3.3)."""
    wanted = pairs(items)
    wire.sendall(associate_rq(wanted, *titles))
    body = _pdu(wire, 2)
    accepted, limit = {}, 0
    for kind, value in _items(body[68:]):
        if kind == 0x21 and value[2] == 0:
            accepted[wanted[value[0] // 2]] = value[0]
        for inner, held in _items(value) if kind == 0x50 else ():
            if inner == 0x51:
                limit = int.from_bytes(held, "big")
    refused = [pair for pair in wanted if pair not in accepted]
    if refused:
        raise SenderError(f"not accepted: SOP class {refused[0][0]} as {refused[0][1]}")
    return accepted, limit


def associate_rq(wanted: Sequence[tuple[str, str]], called: str, calling: str = CALLING) -> bytes:
    """One presentation context, with one transfer syntax, for each pair."""
    contexts = [
        _item(
            0x20,
            bytes((2 * number + 1, 0, 0, 0))
            + _item(0x30, abstract.encode())
            + _item(0x40, syntax.encode()),
        )
        for number, (abstract, syntax) in enumerate(wanted)
    ]
    user = _item(0x51, OUR_MAX_PDU.to_bytes(4, "big"))
    user += _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    body = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), calling.encode().ljust(16))
    body += _item(0x10, APPLICATION_CONTEXT) + b"".join(contexts) + _item(0x50, user)
    return struct.pack(">BBL", 1, 0, len(body)) + body


def message(item: Item, context: int, number: int, limit: int) -> list[_Buffer]:
    """A C-STORE-RQ (PS3.7 §9.3.1.1) in PDUs of at most `limit` bytes, ready to be written."""
    elements = _uid(0x0002, item.sop_class) + _us(0x0100, 0x0001) + _us(0x0110, number)
    elements += _us(0x0700, 0) + _us(0x0800, 0x0001) + _uid(0x1000, item.sop_instance)
    pieces: list[_Buffer] = []
    headers = p_data(context, command_set(elements), limit)
    room = (limit - 6) & ~1  # fragments are even
    data = memoryview(item.data)
    for start in range(0, len(data) or 1, room):
        fragment = data[start : start + room]
        last = 2 if start + room >= len(data) else 0
        size = len(fragment)
        headers += struct.pack(">BBLLBB", 4, 0, size + 6, size + 2, context, last)
        pieces += [headers, fragment]
        headers = b""
    return pieces


def _message(item: Item, contexts: Any, number: int, limit: int) -> list[list[_Buffer]]:
    pieces = message(item, contexts[item.pair], _message_id(number), limit)
    return [pieces[at : at + PIECES] for at in range(0, len(pieces), PIECES)]


def _write(wire: socket.socket, pieces: list[_Buffer]) -> None:
    """All of them; the kernel may take less than all at once."""
    total = sum(map(len, pieces))
    taken = wire.sendmsg(pieces)
    while taken < total:
        total -= taken
        while taken >= len(pieces[0]):
            taken -= len(pieces[0])
            pieces = pieces[1:]
        pieces = [memoryview(pieces[0])[taken:], *pieces[1:]]
        taken = wire.sendmsg(pieces)


def _message_id(number: int) -> int:
    """Message IDs are 1 to 65535 (PS3.7 §9.3.1.1)."""
    return number % 0xFFFF + 1


def _pdu(wire: socket.socket, wanted: int) -> bytes:
    """Returns the body of the next PDU, which must be of this type; nothing behind it is read."""
    data = b""
    while missing := 6 + (int.from_bytes(data[2:6], "big") if len(data) >= 6 else 0) - len(data):
        try:
            part = wire.recv(missing)
        except BlockingIOError:
            raise SenderError(f"no answer within {ANSWER_SECS} s") from None
        if not part:
            raise SenderError("the gateway closed the connection")
        data += part
    if data[0] != wanted:
        raise SenderError(f"a PDU of type {data[0]} came, not {wanted}")
    return data[6:]


def _status(wire: socket.socket, number: int) -> int:
    """Returns the status of the response to message `number`. Raises SenderError."""
    gathering, command = Gathering(), None
    try:
        while command is None:
            command = gathering.take(_pdu(wire, 4))
        response = read_response(command)
    except ProtocolError as problem:
        raise SenderError(problem.message) from None
    if response.message != number:
        raise SenderError(f"message {response.message} was answered, not {number}")
    return response.status


# -- the floor -------------------------------------------------------------------------------------


def _swallow(
    pipe: Connection, items: Sequence[Item], listening: socket.socket, max_pdu: int
) -> None:
    """Accepts one association after another; each brings all the items."""
    pipe.close()
    wanted = pairs(items)
    contexts = {pair: 2 * number + 1 for number, pair in enumerate(wanted)}
    sizes = [sum(map(len, message(item, contexts[item.pair], 1, max_pdu))) for item in items]
    answers = [_success(_message_id(number)) for number in range(len(items))]
    space = memoryview(bytearray(1 << 20))
    while True:
        wire, _ = listening.accept()
        with wire:
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _pdu(wire, 1)
            wire.sendall(_associate_ac(wanted, max_pdu))
            for size, answer in zip(sizes, answers, strict=True):
                while size:
                    got = wire.recv_into(space, min(size, len(space)))
                    if not got:
                        break
                    size -= got
                wire.sendall(answer)
            _pdu(wire, 5)
            wire.sendall(RELEASE_RP)


def _success(number: int) -> bytes:
    elements = _us(0x0120, number) + _us(0x0800, NO_DATA_SET) + _us(0x0900, 0)
    return p_data(1, command_set(elements), OUR_MAX_PDU)


def _associate_ac(wanted: Sequence[tuple[str, str]], max_pdu: int) -> bytes:
    body = struct.pack(">HH64x", 1, 0) + _item(0x10, APPLICATION_CONTEXT)
    for number, (_, syntax) in enumerate(wanted):
        body += _item(0x21, bytes((2 * number + 1, 0, 0, 0)) + _item(0x40, syntax.encode()))
    body += _item(0x50, _item(0x51, max_pdu.to_bytes(4, "big")))
    return struct.pack(">BBL", 2, 0, len(body)) + body


# -- bytes -----------------------------------------------------------------------------------------


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _items(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        found.append((data[at], data[at + 4 : at + 4 + length]))
        at += 4 + length
    return found


def _uid(element: int, value: str) -> bytes:
    padded = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(padded)) + padded


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)
