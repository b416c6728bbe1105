"""A TCP proxy of the tests' own, between a real client and a real server, that can misbehave.

A plan says what becomes of one connection; the proxy asks for one at each. A plan has verbs for
each direction, applied in order to the bytes that pass:

    Latency(secs)         every piece comes so much later
    Bandwidth(rate)       no more than `rate` bytes a second
    Drip(after, secs)     from byte `after` on one byte at a time, `secs` apart
    Stall(after)          reads no further than `after` bytes: the window closes
    Reset(after)          RST to both sides after `after` bytes
    Truncate(after)       closes both sides after `after` bytes, in good manners
    HalfClose(after)      ends this direction after `after` bytes; the other goes on
    Garbage(after, data)  `data` in between, after `after` bytes
    Say(after, data)      `data` to the sender, as if it were the other side's, after `after` bytes
    Drop(after)           swallows what comes behind `after` bytes

PLAIN lets everything pass. Connections and bytes are counted in both directions. Raw sockets, no
buffer of its own beyond one piece: what the other side does not take is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

PIECE_BYTES = 64 * 1024
Pieces = AsyncIterator[bytes]


class Passage:
    """One connection: both of its sockets, and what has come from either side."""

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near, self.far = near, far
        self.up = self.down = 0
        self.cut = False

    def reset(self) -> None:
        """RST to both sides: what has not been delivered is lost."""
        for one in (self.near, self.far):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut = True


class Verb:
    """Something that is done to the bytes of one direction; `back` is who sent them."""

    after: int

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        """By default: lets `after` bytes pass, then `act` decides whether the rest follows."""
        left = self.after
        if not left and not await self.act(wire, back):
            return
        async for piece in pieces:
            yield piece[:left] if left else piece
            if not left:
                continue
            rest, left = piece[left:], max(0, left - len(piece))
            if left:
                continue
            if not await self.act(wire, back):
                return
            if rest:
                yield rest

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        """Does what happens at the place; returns True when bytes go on passing."""
        return True


@dataclass(frozen=True)
class Latency(Verb):
    secs: float

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        async for piece in pieces:
            await asyncio.sleep(self.secs)
            yield piece


@dataclass(frozen=True)
class Bandwidth(Verb):
    rate: float

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        async for piece in pieces:
            yield piece
            await asyncio.sleep(len(piece) / self.rate)


@dataclass(frozen=True)
class Drip(Verb):
    after: int
    secs: float

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        seen = 0
        async for piece in pieces:
            whole = piece[: max(0, self.after - seen)]
            if whole:
                yield whole
            for at in range(len(whole), len(piece)):
                yield piece[at : at + 1]
                await asyncio.sleep(self.secs)
            seen += len(piece)


@dataclass(frozen=True)
class Stall(Verb):
    after: int

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        await asyncio.Event().wait()
        return False


@dataclass(frozen=True)
class Reset(Verb):
    after: int

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        wire.reset()
        return False


@dataclass(frozen=True)
class Truncate(Verb):
    after: int

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        wire.cut = True
        return False


@dataclass(frozen=True)
class HalfClose(Verb):
    after: int

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        return False


@dataclass(frozen=True)
class Garbage(Verb):
    after: int
    data: bytes

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        left = self.after
        async for piece in pieces:
            before, behind = piece[:left], piece[left:]
            if left >= 0 and len(piece) >= left:
                yield before + self.data + behind
                left = -1
            else:
                yield piece
                left = left - len(piece) if left >= 0 else left


@dataclass(frozen=True)
class Say(Verb):
    after: int
    data: bytes

    async def act(self, wire: Passage, back: socket.socket) -> bool:
        await asyncio.get_running_loop().sock_sendall(back, self.data)
        return True


@dataclass(frozen=True)
class Drop(Verb):
    after: int

    async def apply(self, pieces: Pieces, wire: Passage, back: socket.socket) -> Pieces:
        left = self.after
        async for piece in pieces:
            if left:
                yield piece[:left]
            left = max(0, left - len(piece))


@dataclass(frozen=True)
class Plan:
    """`up`: from the client to the server. `down`: from the server to the client."""

    up: tuple[Verb, ...] = ()
    down: tuple[Verb, ...] = ()


PLAIN = Plan()
REFUSE = Plan(up=(Reset(0),))


def in_turn(*plans: Plan) -> Callable[[int], Plan]:
    """One plan for each connection; PLAIN when there are no more."""
    return lambda number: plans[number] if number < len(plans) else PLAIN


ALL_PLAIN = in_turn()


@dataclass
class Proxy:
    """In front of 127.0.0.1:`target`. `plan` is asked with 0, 1, 2 … and may be exchanged."""

    target: int
    plan: Callable[[int], Plan] = ALL_PLAIN
    port: int = 0
    passages: list[Passage] = field(default_factory=list)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def up(self) -> int:
        """Bytes that came from clients."""
        return sum(one.up for one in self.passages)

    @property
    def down(self) -> int:
        """Bytes that came from the server."""
        return sum(one.down for one in self.passages)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Proxy]:
        """In the running loop."""
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listening:
            listening.setblocking(False)
            self.port = listening.getsockname()[1]
            accepting = self._spawn(self._accept(listening))
            try:
                yield self
            finally:
                accepting.cancel()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """In a thread of its own, for tests that have no loop."""
        ready = threading.Event()
        stop = asyncio.Event()
        loop = asyncio.new_event_loop()

        async def main() -> None:
            async with self.open():
                ready.set()
                await stop.wait()

        thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            near, _ = await loop.sock_accept(listening)
            self._spawn(self._pass(near))

    async def _pass(self, near: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with near, socket.socket() as far:
            for one in (near, far):
                one.setblocking(False)
            wire = Passage(near, far)
            plan = self.plan(len(self.passages))
            self.passages.append(wire)
            with contextlib.suppress(OSError):
                await loop.sock_connect(far, ("127.0.0.1", self.target))
            ways = [
                asyncio.ensure_future(self._direct(wire, near, far, plan.up)),
                asyncio.ensure_future(self._direct(wire, far, near, plan.down)),
            ]
            try:
                for way in asyncio.as_completed(ways):
                    await way
                    if wire.cut:
                        return
            finally:
                for each in ways:
                    each.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _direct(
        self, wire: Passage, source: socket.socket, sink: socket.socket, verbs: tuple[Verb, ...]
    ) -> None:
        pieces = self._read(wire, source)
        for verb in verbs:
            pieces = verb.apply(pieces, wire, source)
        loop = asyncio.get_running_loop()
        try:
            async for piece in pieces:
                await loop.sock_sendall(sink, piece)
        except OSError:
            wire.reset()  # one side has gone in bad manners: so does the other
        if not wire.cut:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)

    async def _read(self, wire: Passage, source: socket.socket) -> Pieces:
        loop = asyncio.get_running_loop()
        while piece := await loop.sock_recv(source, PIECE_BYTES):
            if source is wire.near:
                wire.up += len(piece)
            else:
                wire.down += len(piece)
            yield piece
