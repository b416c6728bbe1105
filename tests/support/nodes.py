"""An uploader under test, with a spool on disk, its links, and the far ends of those."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from isal.isal_zlib import crc32

from fastjmix import config, log
from fastjmix.ipc.actions import ActionAnswer, ActionRequest, Kind, make_pair
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.events import EventReader, Events, make_pipe
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.spool import Spool, State, Ticket
from fastjmix.spool.ticket import End
from fastjmix.uploader.loop import Uploader
from fastjmix.uploader.pace import Pace, TimeLimits
from fastjmix.uploader.retry import Backoff
from tests.support.sealed import sealed_envelope

TOKEN = "the-token-that-is-never-logged"
MEGABYTE = 1 << 20
FAST = Pace(
    time_limits=TimeLimits(connect=2, stall=0.8, answer=0.5, rate=MEGABYTE),
    backoff=Backoff(base=0.01, cap=0.04),
    hold_secs=0.1,
    stop_secs=0.2,
)


class BelledSpool(Spool):
    """Rings when an envelope has left outbox/, so that a test need not look again and again."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, durable=False)
        self.moved = asyncio.Condition()
        self.moves: list[tuple[str, str]] = []
        self._loop = asyncio.get_running_loop()

    def deliver(
        self, envelope_id: str, receipt: Mapping[str, Any], ends: Mapping[str, End] | None = None
    ) -> None:
        super().deliver(envelope_id, receipt, ends)
        self._tell("sent", envelope_id)

    def reject(
        self, envelope_id: str, refusal: Mapping[str, Any], ends: Mapping[str, End] | None = None
    ) -> None:
        super().reject(envelope_id, refusal, ends)
        self._tell("rejected", envelope_id)

    def withdraw(self, envelope_id: str) -> None:
        super().withdraw(envelope_id)
        self._tell("withdrawn", envelope_id)

    def _tell(self, where: str, envelope_id: str) -> None:
        async def tell() -> None:
            async with self.moved:
                self.moves.append((where, envelope_id))
                self.moved.notify_all()

        asyncio.run_coroutine_threadsafe(tell(), self._loop)


class Node:
    """An uploader with its spool and its links, and the far ends of those."""

    def __init__(self, root: Path, pace: Pace, *upstreams: config.Upstream, **options: Any) -> None:
        self.spool = BelledSpool(root)
        self.spool.prepare()
        self.page = MetricsPage(1)
        self.outcomes, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.outcomes.setblocking(False)
        self.asking, answering = make_pair()
        reading, writing = make_pipe()
        self.events = EventReader(reading)
        self.channels = Channels(
            stop=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            outbox_wake=os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK),
            outcomes={"packer-0": far},
            metrics=self.page.row(0),
            events=Events(writing),
            actions=answering,
        )
        self.names = tuple(one.name for one in upstreams)
        places = {("dicom_to_jmix", one.name): one for one in upstreams}
        self.uploader = Uploader(places, self.spool, self.channels, pace=pace, **options)
        self._task: asyncio.Task[None] | None = None
        self.log = root / "log"
        log.setup("debug", self.log, "uploader")

    def seal(self, archive: bytes | Path | None = None, *, ack: str = "stored", **said: Any) -> str:
        """Puts an envelope in outbox/ and rings; returns its id.

        None or a path: as a packer seals it. Bytes: as the API received it, with its CRC-32.
        """
        envelope_id = said.pop("id", None) or str(uuid.uuid4())
        made = self.spool.new_upload()
        if isinstance(archive, Path):
            archive.rename(made)
        elif archive is None:
            made.write_bytes(sealed_envelope(envelope_id))
        else:
            made.write_bytes(archive)
            said.setdefault("crc32", crc32(archive))
        ticket = Ticket(
            id=envelope_id,
            pipeline="dicom_to_jmix",
            upstreams=self.names,
            ack=ack,
            studies=("1.2.3",),
            calling_ae="CT1",
            instances=1,
            size_bytes=made.stat().st_size,
            sealed_at=time.time(),
            origin="packer-0",
        )
        self.spool.admit(made, replace(ticket, **said))
        self.channels.wake_uploader()
        return envelope_id

    def start(self) -> None:
        self._task = asyncio.create_task(self.uploader.serve())

    async def left(self, count: int = 1) -> list[tuple[str, str]]:
        """Until `count` envelopes have left outbox/: where each went."""
        async with asyncio.timeout(10), self.spool.moved:
            await self.spool.moved.wait_for(lambda: len(self.spool.moves) >= count)
        return self.spool.moves

    async def outcome(self) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            found: dict[str, Any] = json.loads(await loop.sock_recv(self.outcomes, 65536))
        return found

    async def ask(
        self, kind: Kind, *ids: str, why: str = "", upstream: str = ""
    ) -> Mapping[str, str]:
        """Asks the uploader for an action, as the api does; returns the results."""
        loop = asyncio.get_running_loop()
        request = ActionRequest(1, kind, ids, "a test", why, upstream)
        await loop.sock_sendall(self.asking, request.encode())
        async with asyncio.timeout(10):
            answer = ActionAnswer.decode(await loop.sock_recv(self.asking, 1 << 16))
        assert answer.number == 1
        return answer.results

    async def logged(self, event: str, count: int = 1) -> list[str]:
        """Until that event has been logged so often: its lines."""
        await until(lambda: len(self.lines(event)) >= count)
        return self.lines(event)

    def lines(self, event: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if f" {event} " in line]

    def ticket(self, state: State, envelope_id: str) -> Ticket:
        return self.spool.ticket(state, envelope_id)

    def receipt(self, envelope_id: str) -> Mapping[str, Any]:
        found = self.ticket("sent", envelope_id).receipt
        assert found is not None
        return found

    def refusal(self, envelope_id: str) -> Mapping[str, Any]:
        found = self.ticket("rejected", envelope_id).refusal
        assert found is not None
        return found

    async def stop(self) -> None:
        """The drain; raises what the uploader raised."""
        os.eventfd_write(self.channels.stop, 1)
        if self._task is not None:
            async with asyncio.timeout(10):
                await self._task
        assert self.channels.actions is not None
        for link in (self.outcomes, *self.channels.outcomes.values()):
            link.close()
        for end in (self.asking, self.channels.actions):
            end.close()
        os.close(self.events.descriptor)
        self.channels.events.close()
        os.close(self.channels.stop)
        os.close(self.channels.outbox_wake)
        self.spool.release()
        assert TOKEN not in self.log.read_text()
        assert not self.lines("upload_fault")
        assert not self.lines("upload_abandoned")


def to(url: str, **changes: Any) -> config.Upstream:
    plain = config.Upstream(
        name="store",
        url=url,
        timeout_secs=5.0,
        max_retries=3,
        ca_file=None,
        transfer_encoding="auto",
        require_matching_id=False,
        credentials=None,
    )
    return replace(plain, **changes)


@contextlib.asynccontextmanager
async def node(
    root: Path,
    upstream: config.Upstream | tuple[config.Upstream, ...],
    pace: Pace = FAST,
    *,
    start: bool = True,
    **options: Any,
) -> AsyncIterator[Node]:
    """A running uploader; its envelopes go to all of the upstreams."""
    upstreams = upstream if isinstance(upstream, tuple) else (upstream,)
    made = Node(root, pace, *upstreams, **options)
    if start:
        made.start()
    try:
        yield made
    finally:
        await made.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """On the loop that the product uses."""

    async def main() -> None:
        await test()

    uvloop.run(main())


async def until(holds: Callable[[], bool], secs: float = 10) -> None:
    """For what gives no signal: looks again every few milliseconds, for `secs` at most."""
    async with asyncio.timeout(secs):
        while not holds():
            await asyncio.sleep(0.005)


def descriptors() -> int:
    """How many this process has open."""
    gc.collect()  # a closed transport goes with its cycle
    return len(list(Path("/proc/self/fd").iterdir()))
