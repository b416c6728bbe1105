"""Peers in numbers and of bad manners, and what a gateway has in use before and after them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.support import wire
from tests.support.gateway import Gateway, Peer, images, until

CONGESTED = b"\0\2\3\2"
"""Body of A-ASSOCIATE-RJ: transient, service provider (presentation), local limit exceeded."""

PROVIDER_6 = (7, b"\0\0\2\6")
"""A-ABORT by the service provider: invalid PDU parameter value."""


# -- what is in use --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Use:
    """The resources of one process. Private memory only: the lanes are shared."""

    descriptors: int
    threads: int
    private_kb: int


def status_field(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0])


def use_of(pid: int) -> Use:
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Use(descriptors, status_field(pid, "Threads"), status_field(pid, "RssAnon"))


def in_use(own: Gateway) -> dict[str, Use]:
    """By name, of every child that meets DICOM peers or what they sent."""
    children = own.children()
    return {name: use_of(pid) for name, pid in children.items() if name != "uploader"}


def at_rest(own: Gateway) -> dict[str, Use]:
    """Returns what is in use when nothing is being packed, and the API has its thread."""
    until(lambda: use_of(own.children()["api"]).threads > 1, "the API looks at the spool")
    until(lambda: not list((own.spool / "building").iterdir()), "everything is sealed")
    return in_use(own)


def lanes_kb(own: Gateway) -> int:
    """Memory behind the lanes: what the unnamed file of their rings holds."""
    for link in Path(f"/proc/{own.children()['receiver-0']}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a connection that was closed just now
            if "memfd:fastjmix-lanes" in str(link.readlink()):
                return link.stat().st_blocks // 2
    raise AssertionError("no lanes")


def connections_to(port: int) -> Iterator[list[str]]:
    """The server's ends of connections: fields of /proc/net/tcp."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(f":{port:04X}") and fields[3] not in (
            "0A",
            "06",
        ):  # LISTEN, TIME_WAIT
            yield fields


def open_sockets(own: Gateway) -> int:
    """Connections at the DICOM port that the receiver has not closed."""
    return len(list(connections_to(own.dicom_port)))


SPARE_KB = {"ledger": 8192}
"""KB that a process may have more than before, where 512 are too few: an arena more is no leak, and
SQLite keeps pages of its file in memory."""

FIRST_CROWD_KB = 4096
"""KB that a process may keep of the first crowd: some arenas of Python, 1 MB each."""


def back_to(own: Gateway, base: dict[str, Use], shared_kb: int, seconds: float = 30.0) -> None:
    """Waits until everything that `base` counts is in use again as it was, within 2 %."""

    def too_much() -> list[str]:
        now = in_use(own)
        wrong = [
            f"{name}: {now.get(name)}, was {was}"
            for name, was in base.items()
            if (one := now.get(name)) is None
            or one.descriptors > was.descriptors  # a connection may have been closing at first
            or one.threads != was.threads
            or one.private_kb > was.private_kb * 1.02 + SPARE_KB.get(name, 512)
        ]
        if lanes_kb(own) > shared_kb:
            wrong.append(f"lanes: {lanes_kb(own)} KB, was {shared_kb}")
        return wrong

    last: list[str] = []

    def done() -> bool:
        last[:] = too_much()
        return not last

    try:
        until(done, "everything is in use as before", seconds)
    except AssertionError:
        raise AssertionError("\n".join(last)) from None


# -- what was stored -------------------------------------------------------------------------------


def archives(own: Gateway, study: str) -> list[Path]:
    """The sealed envelopes of a study."""
    found = []
    for state in ("sent", "outbox"):
        for archive in own.envelopes(state):
            ticket = archive.with_suffix(".json")
            if ticket.exists() and study in ticket.read_text():
                found.append(archive)
    return found


def stored(own: Gateway, study: str, envelopes: int = 1) -> dict[str, bytes]:
    """SOP Instance UID → data set bytes of a study, once it has so many sealed envelopes."""
    until(lambda: len(archives(own, study)) >= envelopes, f"{envelopes} envelopes of {study}")
    found: dict[str, bytes] = {}
    for archive in archives(own, study):
        found |= images(archive)
    return found


def new_uid() -> str:
    return f"1.2.826.0.1.{random.getrandbits(90)}"


def works(own: Gateway) -> None:
    """The gateway takes an instance as if nothing had happened."""
    study = new_uid()
    with Peer(own.dicom_port) as peer:
        assert peer.associate()[0] == 2
        assert peer.store(wire.data_set(study=study)) == 0
        peer.release()


def is_let_in(own: Gateway) -> bool:
    """False when the connection was turned away."""
    try:
        works(own)
    except (ConnectionError, EOFError):
        return False
    return True


def message(data: bytes, instance: str = "1.2.3.9", number: int = 1, size: int = 16000) -> bytes:
    """A C-STORE-RQ and its data set, as PDUs."""
    items = wire.pdvs(number, wire.store_rq(instance), True)
    return wire.p_data(items + wire.pdvs(number, data, False, [size] * (len(data) // size + 1)))


def goes_away_with_a_reset(peer: Peer) -> None:
    """Closes so that the other side sees RST."""
    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.socket.close()


# -- many at once ----------------------------------------------------------------------------------


class Caller:
    """A peer among hundreds: the same conversation as gateway.Peer has, without a thread."""

    _open: ClassVar[set[Caller]] = set()

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        Caller._open.add(self)
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(host, 0)))

    async def pdu(self) -> tuple[int, bytes]:
        head = await self.reader.readexactly(6)
        return head[0], await self.reader.readexactly(int.from_bytes(head[2:], "big"))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def associate(self, **options: Any) -> tuple[int, bytes]:
        await self.send(wire.associate_rq(wire.context(1, wire.CT, wire.EXPLICIT), **options))
        return await self.pdu()

    async def store(self, data: bytes, instance: str = "1.2.3.9") -> int:
        await self.send(message(data, instance))
        kind, body = await self.pdu()
        assert kind == 4, (kind, body)
        return int.from_bytes(wire.parse_command(body[6:])[0x0900], "little")

    async def release(self) -> None:
        await self.send(wire.RELEASE_RQ)
        assert (await self.pdu())[0] == 6

    def close(self) -> None:
        Caller._open.discard(self)
        self.writer.close()

    @classmethod
    def close_all(cls) -> None:
        """Closes what a failed test, or a rejected peer, has left open."""
        for caller in list(cls._open):
            caller.close()


def together(*work: Any) -> list[Any]:
    """Runs coroutines side by side; their results. No connection of theirs is left open."""

    async def all_of_them() -> list[Any]:
        try:
            return await asyncio.gather(*work)
        finally:
            Caller.close_all()
            await asyncio.sleep(0)  # transports close in the loop's next turn

    return asyncio.run(all_of_them())
