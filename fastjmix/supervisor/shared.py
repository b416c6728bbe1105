"""Makes what the children share, and starts each of them with its part.

Guaranteed: everything is made before the first fork. A child keeps only the sockets and the memory
that its work needs, and closes the rest before it serves anyone; a child without need of a secret
never sees one (configuration.py). Those that write in the spool hold its lock with the supervisor:
the lock is free when the last of them is gone.
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
from fastjmix.ipc.lane import Passage
from fastjmix.ipc.live_lanes import LiveLanes
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.ipc.shared_lanes import SharedLanes
from fastjmix.ipc.state_board import StateBoard
from fastjmix.packer import loop as packer
from fastjmix.receiver import loop as receiver
from fastjmix.spool import Spool
from fastjmix.supervisor.children import Child, Stage, protect_memory
from fastjmix.supervisor.configuration import SecretConfigs
from fastjmix.supervisor.memory import Plan
from fastjmix.supervisor.sockets import listen
from fastjmix.supervisor.systemd import InheritedSockets


class Shared:
    """The listening sockets, the lanes, and the descriptors between the processes.

    `own` is the supervisor's row of counters. Raises PlatformError where one of them cannot be had.
    """

    def __init__(
        self,
        config: Config,
        secrets: SecretConfigs,
        spool: Spool,
        plan: Plan,
        inherited: InheritedSockets,
    ) -> None:
        """`inherited` serve the listeners with their addresses; the others are opened."""
        runtime = config.runtime
        self._config = config
        self._secrets = secrets
        self._spool = spool
        self._inherited = inherited
        self.dicom = [
            inherited.take(d.host, d.port) or listen(d.host, d.port, f"DICOM endpoint {d.endpoint}")
            for d in config.dicom
        ]
        self.http = [
            inherited.take(h.host, h.port) or listen(h.host, h.port, f"HTTP endpoint {h.endpoint}")
            for h in config.http
        ]
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
        self._actions = make_pair()
        self._board = StateBoard(BOARD)
        Events(self._events[1], self.own).report_errors()  # the supervisor's
        self._run = f"{time.time_ns() // 1_000_000:x}"

    def children(self) -> list[Child]:
        """Returns the children, in the order in which they are started."""
        runtime = self._config.runtime
        children = [
            Child(f"receiver-{n}", Stage.RECEIVE, self._receiver(n, row=n))
            for n in range(runtime.receivers)
        ]
        rows = runtime.receivers
        children += [
            Child(f"packer-{n}", Stage.PACK, self._packer(n, row=rows + n))
            for n in range(runtime.packers)
        ]
        rows += runtime.packers
        # Before those that need an HTTP library, whose memory it does not need.
        children.append(Child("ledger", Stage.RECORD, self._ledger(rows + 2)))
        children.append(Child("uploader", Stage.UPLOAD, self._uploader(rows)))
        children.append(Child("api", Stage.SERVE, self._api(rows + 1)))
        return children

    def stop(self, stage: Stage) -> None:
        """Makes the children of a stage drain."""
        with contextlib.suppress(OSError):  # it is readable already
            os.eventfd_write(self._stops[stage], 1)

    def stop_listening(self) -> None:
        """Closes the supervisor's listening sockets. The children have theirs: when they close
        them, nobody can connect.
        """
        for listening in (*self.dicom, *self.http):
            listening.close()

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
        stage: Stage,
        row: int,
        outcomes: Mapping[str, socket.socket],
        actions: socket.socket | None = None,
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
            self._board,
            self._run,
            actions,
            live=live or LiveLanes(),
            drain=self.drain,
            outliving=self._inherited.addresses,
        )

    def _keep(
        self,
        *,
        sockets: Sequence[socket.socket] = (),
        outcome: str = "",
        senders: bool = False,
        lanes: bool = False,
        events: bool = False,
        actions: socket.socket | None = None,
    ) -> None:
        """Closes what a child does not need. `outcome` is the origin whose receiving end is its
        own; `events` is for the process that reads them, `actions` its end of that passage.
        """
        if not events:
            os.close(self._events[0])
        for end in self._actions:
            if end is not actions:
                end.close()
        for listening in (*self._inherited, *self.dicom, *self.http):
            if listening not in sockets:
                listening.close()
        for name, (receiving, sending) in self._outcomes.items():
            if not senders:
                sending.close()
            if name != outcome:
                receiving.close()
        if not lanes:
            self._shared_lanes.close()

    def _receiver(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            self._secrets.close()
            self._keep(sockets=self.dicom, lanes=True)
            self._spool.release()  # it writes nothing there
            channels = self._channels(Stage.RECEIVE, row, {})
            receiver.run(self._config, number, self._shared_lanes, channels, self.dicom)

        return start

    def _packer(self, number: int, row: int) -> Callable[[], None]:
        def start() -> None:
            self._secrets.close()
            name = f"packer-{number}"
            self._keep(outcome=name, lanes=True)
            channels = self._channels(Stage.PACK, row, {name: self._outcomes[name][0]})
            packer.run(self._config, number, self._shared_lanes, channels, self._spool.inherited())

        return start

    def _uploader(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.uploader import loop as uploader

            senders = {origin: pair[1] for origin, pair in self._outcomes.items()}
            requests = self._actions[1]
            self._keep(senders=True, actions=requests)
            protect_memory()
            channels = self._channels(Stage.UPLOAD, row, senders, requests)
            uploader.run(self._secrets.open("uploader"), self._spool.inherited(), channels)

        return start

    def _api(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.api import server as api

            asking, outcomes = self._actions[0], {"api": self._outcomes["api"][0]}
            self._keep(sockets=self.http, outcome="api", actions=asking, lanes=True)
            live = self._shared_lanes.only_look()
            protect_memory()
            channels = self._channels(Stage.SERVE, row, outcomes, asking, live)
            api.run(self._secrets.open("api"), self._spool.inherited(), channels, self.http)

        return start

    def _ledger(self, row: int) -> Callable[[], None]:
        def start() -> None:
            from fastjmix.recorder import loop as recorder

            self._secrets.close()
            self._keep(events=True)
            self._spool.release()  # it moves nothing there
            channels = self._channels(Stage.RECORD, row, {})
            recorder.run(self._config, self._spool.claimed, channels, self._events[0])

        return start


def _eventfd() -> int:
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _datagrams() -> tuple[socket.socket, socket.socket]:
    """Returns a non-blocking pair: receiving end, sending end."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    for end in pair:
        end.setblocking(False)
    return pair
