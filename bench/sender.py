"""Senders: DCMTK's storescu, as the anchors have it, and one of our own for what it cannot express.

Wanted: senders that cost little beside what is measured. `storescu` is one process an association
(20 ms to start), and sends all its files over one association; so many associations at once, one
association an instance, and instances larger than a file one would want to make, are sent from
here, out of memory, by one thread that waits for sockets.
Guaranteed: every C-STORE-RSP is read and must say 0x0000, every association is released, or
SendError is raised. Times are wall-clock seconds, from before the first connection (or process) to
after the last has ended.
Still wrong: the own sender takes part of a processor which a modality would bring along.
"""

from __future__ import annotations

import os
import selectors
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from bench.study import CT, EXPLICIT, Study
from fastjmix.dicom import requests
from fastjmix.dicom.dimse import p_data
from fastjmix.dicom.responses import Gathering, read_response
from fastjmix.tools import send
from tests.support.acceptors import dcmtk

PDU: Final = 131072
PATIENCE: Final = 300.0
AHEAD: Final = 8
"""Buffers given to one sendmsg(2)."""


class SendError(Exception):
    """The receiver did not take what was sent."""


def storescu(
    targets: Sequence[tuple[int, str, Path]], *, nagle: bool = False, pdu: int = PDU
) -> float:
    """Sends each (port, called AE title, directory) by a process of its own, all at once."""
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    if not nagle:
        environment["TCP_NODELAY"] = "1"
    program = dcmtk("storescu")
    start = time.perf_counter()
    senders = [
        subprocess.Popen(
            [
                program, "--max-send-pdu", str(pdu), "+sd", "-aec", aet,
                "127.0.0.1", str(port), str(directory),
            ],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for port, aet, directory in targets
    ]  # fmt: skip
    try:
        codes = [sender.wait() for sender in senders]  # with a timeout it would poll every 50 ms
    finally:
        for sender in senders:
            if sender.poll() is None:
                sender.kill()
                sender.wait()
    seconds = time.perf_counter() - start
    if any(codes):
        raise SendError(f"storescu ended with {codes}")
    return seconds


def storescu_command(nagle: bool = False, pdu: int = PDU) -> str:
    """Returns the command line of `storescu`, for the report."""
    prefix = "" if nagle else "TCP_NODELAY=1 "
    return f"{prefix}storescu --max-send-pdu {pdu} +sd -aec AET 127.0.0.1 PORT STUDY"


def _fragments(head: bytes, pixels: Iterable[memoryview], total: int, pdu: int) -> Iterator[object]:
    """The data set as P-DATA-TF PDUs with one PDV each (PS3.8 §9.3.5), as buffers to be sent."""
    most = requests.fragment_bytes(pdu)
    pieces = iter([memoryview(head), *pixels])
    piece = next(pieces)
    left = total
    while left:
        size = min(most, left)
        left -= size
        yield requests.fragment_header(1, size, last=not left)
        while size:
            if not piece:
                piece = next(pieces)
            part = piece[:size]
            piece = piece[size:]
            size -= len(part)
            yield part


def message(study: Study, index: int, number: int, pdu: int = PDU) -> Iterator[object]:
    """A C-STORE of one instance: buffers in the order in which they go out."""
    command = requests.store_rq(CT, study.instance_uid(index), requests.message_id(number))
    yield p_data(1, command, pdu)
    head = study.head(index)
    yield from _fragments(head, study.pixels(index), len(head) + study.pixel_bytes, pdu)


class Association:
    """One association as a state machine that `drive` pushes; `work` are (study, index)."""

    def __init__(
        self, port: int, aet: str, work: Iterable[tuple[Study, int]], calling: str
    ) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.work = iter(work)
        self.number = 0
        self.done = False
        self.established = False
        self.hold = False
        self.released_at = 0.0
        self._in = bytearray()
        self._source: Iterator[object] = iter(())
        self._out: deque[memoryview] = deque()
        request = requests.associate_rq(((CT, EXPLICIT),), aet, calling, PDU)
        self._out.append(memoryview(request))

    def push(self) -> bool:
        """Sends what the socket takes. True: there is more."""
        while True:
            while len(self._out) < AHEAD and (buffer := next(self._source, None)) is not None:
                self._out.append(memoryview(buffer))  # type: ignore[arg-type]
            if not self._out:
                return False
            try:
                sent = self.socket.sendmsg(self._out)
            except BlockingIOError:
                return True
            while sent:
                first = self._out[0]
                if sent < len(first):
                    self._out[0] = first[sent:]
                    break
                sent -= len(first)
                self._out.popleft()

    def pull(self) -> None:
        """Receives, and goes on to what follows: the next instance, the release, the end."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        if not data:
            raise SendError(f"the receiver closed after {self.number} instances")
        self._in += data
        while len(self._in) >= 6:
            length = int.from_bytes(self._in[2:6], "big")
            if len(self._in) < 6 + length:
                return
            kind, body = self._in[0], bytes(self._in[6 : 6 + length])
            del self._in[: 6 + length]
            self._take(kind, body)
            if self.done:
                return

    def _take(self, kind: int, body: bytes) -> None:
        if kind == 2:
            self.established = True
        elif kind == 4:
            command = Gathering().take(body)
            status = 0xFFFF if command is None else read_response(command).status
            if status:
                raise SendError(f"C-STORE answered with 0x{status:04X}")
        elif kind == 6:
            self.done = True
            self.released_at = time.perf_counter()
            self.socket.close()
            return
        else:
            raise SendError(f"the receiver sent a PDU of type {kind}")
        if not self.hold:
            self.go_on()

    def go_on(self) -> None:
        """The next instance, or the release when there is none."""
        following = next(self.work, None)
        if following is None:
            self._out.append(memoryview(requests.RELEASE_RQ))
        else:
            study, index = following
            self._source = message(study, index, self.number)
            self.number += 1


def drive(associations: Sequence[Association]) -> None:
    """Until every association has been released, or held ones are established."""
    with selectors.DefaultSelector() as selector:
        waiting = set()
        both, read = selectors.EVENT_READ | selectors.EVENT_WRITE, selectors.EVENT_READ
        for association in associations:
            more = association.push()
            selector.register(association.socket, both if more else read, association)
            waiting.add(association)
        deadline = time.monotonic() + PATIENCE
        while waiting:
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise SendError("the receiver did not answer in time")
            deadline = time.monotonic() + PATIENCE
            for key, events in ready:
                association = key.data
                if events & selectors.EVENT_READ:
                    association.pull()
                if association.done:
                    selector.unregister(key.fileobj)
                    waiting.discard(association)
                    continue
                if association.hold and association.established:
                    waiting.discard(association)
                wanted = both if association.push() else read
                if wanted != key.events:
                    selector.modify(key.fileobj, wanted, association)


def _all(study: Study) -> Iterator[tuple[Study, int]]:
    return ((study, index) for index in range(study.instances))


def _close(associations: Iterable[Association]) -> None:
    for association in associations:
        association.socket.close()


def at_once(port: int, aet: str, studies: Sequence[Study]) -> float:
    """One association a study, all at the same time; seconds."""
    start = time.perf_counter()
    made: list[Association] = []
    try:
        for number, study in enumerate(studies):
            made.append(Association(port, aet, _all(study), f"BENCH{number}"))
        drive(made)
    finally:
        _close(made)
    return time.perf_counter() - start


def one_each(port: int, aet: str, study: Study) -> float:
    """One association an instance, one after the other; seconds."""
    start = time.perf_counter()
    for index in range(study.instances):
        association = Association(port, aet, [(study, index)], "BENCH")
        try:
            drive([association])
        finally:
            association.socket.close()
    return time.perf_counter() - start


def released_at(port: int, aet: str, study: Study) -> float:
    """Sends a study; the time (perf_counter) at which the A-RELEASE-RP had come."""
    association = Association(port, aet, _all(study), "BENCH")
    try:
        drive([association])
    finally:
        association.socket.close()
    return association.released_at


def with_others_open(port: int, aet: str, studies: Sequence[Study], idle: int) -> None:
    """Sends the studies at once while `idle` other associations are open, then releases all."""
    held: list[Association] = []
    try:
        for number in range(idle):
            held.append(Association(port, aet, (), f"IDLE{number}"))
            held[-1].hold = True
        drive(held)
        at_once(port, aet, studies)
        for association in held:
            association.hold = False
            association.go_on()
        drive(held)
    finally:
        _close(held)


def echo(port: int, aet: str) -> bool:
    """One C-ECHO; False when nobody listens yet."""
    try:
        return send.echo(send.Peer("127.0.0.1", port, aet, "BENCH", timeout=5)).status == 0
    except send.NoAssociation:
        return False
