"""Runs the process api: it sets up the HTTP listeners, and ends them in order.

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
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvloop

from fastjmix import log
from fastjmix.api.admin.callers import RemoteCallers
from fastjmix.api.admin.local import LocalListener
from fastjmix.api.admin.routes import Node, node_routes
from fastjmix.api.alerts.delivery import Alerts
from fastjmix.api.page.routes import OPEN_PATHS as PAGE_PATHS
from fastjmix.api.page.routes import page_routes
from fastjmix.api.routes import OPEN_PATHS, collection_of, routes
from fastjmix.api.shared import ORIGIN, Shared
from fastjmix.api.study_index import StudyIndex
from fastjmix.config import Config, HttpListener
from fastjmix.config.certificates import server_context
from fastjmix.errors import ConfigError
from fastjmix.httpd.credentials import AccessCheck, is_loopback
from fastjmix.httpd.server import Runner, make_runner
from fastjmix.ipc.channels import Channels
from fastjmix.spool import Spool

if TYPE_CHECKING:
    from fastjmix.jmix.keys import RecipientKey


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
    runners: list[Runner] = []
    node = Node(config, shared)
    grace_secs = config.runtime.grace_secs
    local = LocalListener(spool.claimed, node, grace_secs)
    beside = [
        asyncio.create_task(work)
        for work in (_warm(shared.study_index), node.rates.run(), local.watch())
    ]
    if config.alerts.webhook_url:
        alerts = Alerts(config.alerts, config.name, spool.root, shared.state, shared.warnings)
        beside.append(asyncio.create_task(alerts.run()))
    try:
        await local.start()
        for settings, listening in zip(config.http, sockets, strict=True):
            runners.append(await _listen(settings, shared, node, listening, grace_secs))
        await shared.stopping.wait()
        log.get().info("http_draining")
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(local.close(), *(runner.cleanup() for runner in runners))
        node.uploader.close()
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


async def _listen(
    settings: HttpListener,
    shared: Shared,
    node: Node,
    listening: socket.socket,
    grace_secs: float,
) -> Runner:
    """Starts one listener. Raises ConfigError."""
    tls, access = _tls(settings), _access(settings)
    callers = RemoteCallers(identified=settings.credentials is not None)
    served = [
        *routes(settings, shared, _decryption_key(settings)),
        *node_routes(node, callers),
        *page_routes(settings, collection_of(settings), access, node.status.as_json),
    ]
    open_paths = (*OPEN_PATHS, *PAGE_PATHS)
    runner = make_runner(served, access, open_paths=open_paths, shutdown_secs=grace_secs)
    await runner.setup()
    url = await runner.listen(listening, tls, settings.proxies)
    log.get().info("http_listening", endpoint=settings.endpoint, url=url)
    return runner


def _tls(settings: HttpListener) -> ssl.SSLContext | None:
    """Returns TLS 1.2 or later, when a certificate and its key are configured.

    Raises ConfigError.
    """
    if settings.cert_file is None or settings.key_file is None:
        return None
    try:
        return server_context(settings.cert_file, settings.key_file)
    except OSError as problem:  # they were changed since the start; ssl.SSLError is one
        raise ConfigError(
            f"{settings.cert_file}: not a certificate that fits {settings.key_file}: {problem}",
            "Both must be PEM files; the certificate file holds the chain, the server's first.",
        ) from problem


def _decryption_key(settings: HttpListener) -> RecipientKey | None:
    """Returns the key for envelopes that are posted encrypted, when one is configured.

    Raises ConfigError.
    """
    if settings.decryption_key_file is None:
        return None
    from fastjmix.config import key_files
    from fastjmix.jmix import keys  # some 60 ms: only for decryption

    return key_files.load(keys.recipient_key, settings.decryption_key_file)


def _access(settings: HttpListener) -> AccessCheck:
    """Returns the access rule of a listener.

    Raises ConfigError for a listener that would serve patients' images to everyone.
    """
    if settings.credentials is not None:
        return AccessCheck(settings.credentials.header())
    if not is_loopback(settings.host) and not settings.allow_unauthenticated:
        raise ConfigError(
            f"endpoint {settings.endpoint}: {settings.host} is reachable from other machines",
            "Give it authentication, bind it to 127.0.0.1, or set allow_unauthenticated = true.",
        )
    return AccessCheck(None, (settings.host, *settings.allowed_hosts))
