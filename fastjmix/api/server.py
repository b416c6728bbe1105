"""Runs the process api: it sets up its parts, and ends them in order.

Guaranteed: it reads the disk, and writes only what was POSTed, and the local socket (api/admin/).
Credentials are checked on every path but /healthz, /readyz and those of the page, which hold no
data. Without credentials a request must name localhost, a loopback address, the listener's own or
one of allowed_hosts in Host, so that no page of another site reads envelopes through a browser on
this machine. Errors are {"error": …}
(httpd/middleware.py).
"""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Sequence

import uvloop

from fastjmix import log
from fastjmix.api.admin.local import LocalListener
from fastjmix.api.admin.routes import Node
from fastjmix.api.adoption import Adoption
from fastjmix.api.alerts.delivery import Alerts
from fastjmix.api.listeners import Listeners
from fastjmix.api.shared import ORIGIN, Shared
from fastjmix.api.study_index import StudyIndex
from fastjmix.config import Config
from fastjmix.ipc.channels import Channels
from fastjmix.spool import Spool


def run(config: Config, spool: Spool, channels: Channels, sockets: Sequence[socket.socket]) -> None:
    """Runs the forked child: serves until Channels.stop or SIGTERM, then ends what is in flight.

    `sockets` are bound, one for each of `config.http`, in its order. Logging is set up by the
    caller. SIGINT, which a terminal sends to the whole group, is left to the supervisor. Raises
    ConfigError for TLS files that cannot be used.
    """
    spool.take_over(ORIGIN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, spool, channels, sockets))


async def _serve(
    config: Config, spool: Spool, channels: Channels, sockets: Sequence[socket.socket]
) -> None:
    shared = Shared(config, spool, channels)
    _connect_stop(channels, shared.stopping)
    node = Node(config, shared)
    grace_secs = config.runtime.grace_secs
    local = LocalListener(spool.claimed, node, grace_secs)
    listeners = Listeners(shared, node, grace_secs)
    alerts = Alerts(config.alerts, config.name, spool.root, shared.state, shared.warnings)
    adoption = Adoption(shared, node, listeners, alerts)
    beside = [
        asyncio.create_task(work)
        for work in (_warm(shared.study_index), node.rates.run(), local.watch(), alerts.run())
    ]
    try:
        await local.start()
        for settings, listening in zip(config.http, sockets, strict=True):
            await listeners.start(settings, listening)
        await adoption.run(channels.configuration, shared.stopping)
        log.get().info("http_draining")
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(local.close(), listeners.close())
        node.close()
        shared.outcomes.close()  # last: requests in flight may be waiting for one


def _connect_stop(channels: Channels, stopping: asyncio.Event) -> None:
    """Sets `stopping` when Channels.stop is readable, or SIGTERM comes."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        loop.remove_reader(channels.stop)
        stopping.set()

    loop.add_reader(channels.stop, stop)
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:  # the supervisor drains in order
            loop.add_signal_handler(signal.SIGTERM, stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the supervisor


async def _warm(index: StudyIndex) -> None:
    try:
        await index.warm()
    except OSError as problem:
        log.get().error("catalogue_unreadable", problem=problem.strerror)
