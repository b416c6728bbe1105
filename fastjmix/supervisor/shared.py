"""Makes what the children share, and starts each of them with its part.

Guaranteed: everything is made before the first fork. A child keeps only the sockets and the memory
that its work needs, and closes the rest before it serves anyone; a child without need of a secret
never sees one (configuration.py). A child begins with the latest configuration that its kind was
sent (generations.py). Those that write in the spool hold its lock with the supervisor: the
lock is free when the last of them is gone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from fastjmix.config import Config
from fastjmix.ipc.actions import make_pair
from fastjmix.ipc.channels import BOARD, Channels
from fastjmix.ipc.drain import DrainPage
from fastjmix.ipc.events import Events, make_pipe
from fastjmix.ipc.ingest_rules import tabulate
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.live_lanes import LiveLanes
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.ipc.state_board import StateBoard
from fastjmix.packer import loop as packer
from fastjmix.receiver import loop as receiver
from fastjmix.spool import Spool
from fastjmix.supervisor.announcements import Links
from fastjmix.supervisor.children import Child, Stage, protect_memory
from fastjmix.supervisor.generations import Generation, Generations
from fastjmix.supervisor.memory import Plan
from fastjmix.supervisor.memory_files import MemoryFiles
from fastjmix.supervisor.sockets import listen_at
from fastjmix.supervisor.systemd import InheritedSockets


class Shared:
    """The configurations, the lanes, and the descriptors between the processes.

    `own` is the supervisor's row of counters, `requests` its end of the passage for what a person
    asks of the node, `children` are in the order in which they are started, `links` the passages
    to them. Raises PlatformError where one of them cannot be had.
    """

    def __init__(
        self,
        config: Config,
        files: MemoryFiles,
        spool: Spool,
        plan: Plan,
        inherited: InheritedSockets,
    ) -> None:
        """`inherited` serve the listeners with their addresses; the others are opened."""
        runtime = config.runtime
        self._spool = spool
        self.inherited = inherited
        sockets = listen_at(config, inherited)
        self.generations = Generations(Generation(1, config, files, tabulate(config), sockets))
        self.drain = DrainPage(runtime.receivers, runtime.packers)
        processes = runtime.receivers + runtime.packers
        self._shared_lanes = SharedLanes(
            passage=Passage(plan.lanes, plan.lane_bytes, processes),
            wake=[_eventfd() for _ in range(processes)],
            receivers=runtime.receivers,
            packers=runtime.packers,
        )
        self._metrics = MetricsPage(processes + 4)
        self.own = self._metrics.row(self._metrics.rows - 1)
        self._outbox_wake = _eventfd()
        self._stops = {stage: _eventfd() for stage in Stage}
        origins = [f"packer-{n}" for n in range(runtime.packers)] + ["api"]
        self._outcomes = {origin: _datagrams() for origin in origins}
        self._events = make_pipe()
        self._actions, self._asking = make_pair(), make_pair()
        self.requests = self._asking[1]
        self.board = StateBoard(BOARD)
        self.children = self._children()
        self.links = Links(child.name for child in self.children)
        Events(self._events[1], self.own).report_errors()  # the supervisor's
        self._run = f"{time.time_ns() // 1_000_000:x}"

    def _children(self) -> list[Child]:
        """Returns the children, in the order in which they are started."""
        receivers, packers = self._shared_lanes.receivers, self._shared_lanes.packers
        children = [
            Child(f"receiver-{n}", Stage.RECEIVE, self._receiver(n, row=n))
            for n in range(receivers)
        ]
        rows = receivers
        children += [
            Child(f"packer-{n}", Stage.PACK, self._packer(n, row=rows + n)) for n in range(packers)
        ]
        rows += packers
        # Before those that need an HTTP library, whose memory it does not need.
        children.append(Child("ledger", Stage.RECORD, self._ledger(rows + 2)))
        children.append(Child("uploader", Stage.UPLOAD, self._uploader(rows)))
        children.append(Child("api", Stage.SERVE, self._api(rows + 1)))
        return children

    def stop(self, stage: Stage) -> None:
        """Makes the children of a stage drain."""
        with contextlib.suppress(OSError):  # it is readable already
            os.eventfd_write(self._stops[stage], 1)

    def wake_all(self) -> None:
        """Wakes receivers, packers and the uploader after a child has died. It may have cleared the
        flag by which a process says that it sleeps, and not have woken it; or have put an envelope
        in outbox/ without waking the uploader.
        """
        for wake in (*self._shared_lanes.wake, self._outbox_wake):
            with contextlib.suppress(OSError):
                os.eventfd_write(wake, 1)

    # -- in a child --------------------------------------------------------------------------

    def _channels(
        self,
        name: str,
        stage: Stage,
        row: int,
        outcomes: Mapping[str, socket.socket],
        actions: socket.socket | None = None,
        asking: socket.socket | None = None,
        live: LiveLanes | None = None,
    ) -> Channels:
        metrics = self._metrics.row(row)
        events = Events(self._events[1], metrics)
        events.report_errors()
        return Channels(
            self._stops[stage],
            self._outbox_wake,
            outcomes,
            metrics,
            events,
            self.board,
            self._run,
            actions,
            asking,
            self.links.inbox(name, self.generations.of(stage).number),
            live or LiveLanes(),
            self.drain,
            self.inherited.addresses,
        )

    def _keep(
        self,
        *,
        own: Generation | None = None,
        sockets: Sequence[socket.socket] = (),
        outcome: str = "",
        senders: bool = False,
        lanes: bool = False,
        events: bool = False,
        actions: socket.socket | None = None,
        asking: socket.socket | None = None,
    ) -> None:
        """Closes what a child does not need. `own` is the configuration whose memory files it
        opens, `outcome` the origin whose receiving end is its own; `events` is for the process that
        reads them, `actions` and `asking` its ends of these passages.
        """
        self.generations.only(own, sockets)
        if not events:
            os.close(self._events[0])
        for end in (*self._actions, *self._asking):
            if end not in (actions, asking):
                end.close()
        for inherited in self.inherited:
            inherited.close()
        for name, (receiving, sending) in self._outcomes.items():
            if not senders:
                sending.close()
            if name != outcome:
                receiving.close()
        if not lanes:
            self._shared_lanes.close()

    def _receiver(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            own = self.generations.of(Stage.RECEIVE)
            sockets = own.sockets.dicom
            self._keep(sockets=sockets, lanes=True)
            self._spool.release()  # it writes nothing there
            channels = self._channels(f"receiver-{number}", Stage.RECEIVE, row, {})
            lanes = self._shared_lanes
            receiver.run(own.config, own.rules, number, lanes, channels, sockets)

        return start

    def _packer(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            own = self.generations.of(Stage.PACK)
            name = f"packer-{number}"
            self._keep(outcome=name, lanes=True)
            channels = self._channels(name, Stage.PACK, row, {name: self._outcomes[name][0]})
            lanes, spool = self._shared_lanes, self._spool.inherited()
            packer.run(own.config, own.rules, number, lanes, channels, spool)

        return start

    def _uploader(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.uploader import loop as uploader

            senders = {origin: pair[1] for origin, pair in self._outcomes.items()}
            own, requests = self.generations.of(Stage.UPLOAD), self._actions[1]
            self._keep(own=own, senders=True, actions=requests)
            protect_memory()
            channels = self._channels("uploader", Stage.UPLOAD, row, senders, requests)
            uploader.run(own.files.open("uploader"), self._spool.inherited(), channels)

        return start

    def _api(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.api import server as api

            own, outcomes = self.generations.of(Stage.SERVE), {"api": self._outcomes["api"][0]}
            sockets, ends = own.sockets.http, (self._actions[0], self._asking[0])
            self._keep(
                own=own, sockets=sockets, outcome="api", actions=ends[0], asking=ends[1], lanes=True
            )
            live = self._shared_lanes.only_look()
            protect_memory()
            channels = self._channels("api", Stage.SERVE, row, outcomes, *ends, live)
            api.run(own.files.open("api"), self._spool.inherited(), channels, sockets)

        return start

    def _ledger(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.recorder import loop as recorder

            own = self.generations.of(Stage.RECORD)
            self._keep(events=True)
            self._spool.release()  # it moves nothing there
            channels = self._channels("ledger", Stage.RECORD, row, {})
            recorder.run(own.config, self._spool.claimed, channels, self._events[0])

        return start


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _datagrams() -> tuple[socket.socket, socket.socket]:
    """Returns a non-blocking pair: receiving end, sending end."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
    return pair
