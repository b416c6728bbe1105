"""Serves the routes about the node on its local socket (control/), while the process runs.

Guaranteed: a socket that cannot be made, or that somebody deleted, is made as soon as it can be; no
other listener waits for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from fastjmix import log
from fastjmix.api.admin.callers import LocalCallers
from fastjmix.api.admin.feed import Places
from fastjmix.api.admin.routes import Node, node_routes
from fastjmix.control.listening import ControlSocket
from fastjmix.httpd.server import Runner, Service, make_runner
from fastjmix.spool.root import Root

LOOK_SECS: Final = 60.0
"""Seconds between two looks whether the path still leads to the socket."""


class LocalListener:
    """The local socket of one node. `grace_secs` is what requests in flight have at the end."""

    def __init__(self, root: Root, node: Node, grace_secs: float) -> None:
        self._root = root
        callers = LocalCallers()
        service = Service(node_routes(node, callers, Places()), callers)
        self._runner: Runner = make_runner(service, shutdown_secs=grace_secs)
        self._listening: ControlSocket | None = None
        self._why = ""

    async def start(self) -> None:
        """Serves from now on, where the socket can be made."""
        await self._runner.setup()
        await self._make()

    async def watch(self) -> None:
        """Makes the socket again when it is gone, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECS)
            if self._listening is None or not self._listening.in_place():
                await self._make()

    async def close(self) -> None:
        """Ends it: requests in flight first."""
        await self._runner.cleanup()
        if self._listening is not None:
            self._listening.remove()

    async def _make(self) -> None:
        for site in list(self._runner.sites):
            await site.stop()
        self._listening = None
        try:
            self._root.require_file_system()
            made = ControlSocket(self._root.path)
        except OSError as problem:
            why = problem.strerror or str(problem)
            if why != self._why:
                hint = "fastjmix status and outbox cannot reach this node; it is tried again"
                log.get().error("control_unavailable", why=why, hint=hint)
            self._why = why
            return
        self._why = ""
        await self._runner.listen(made.socket)
        self._listening = made
