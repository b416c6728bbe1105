"""Takes over another configuration while the process serves."""

from __future__ import annotations

import asyncio

from fastjmix.api.admin.routes import Node
from fastjmix.api.alerts.delivery import Alerts
from fastjmix.api.listeners import Listeners
from fastjmix.api.shared import Shared
from fastjmix.api.warnings import certificates_of
from fastjmix.ipc.configuration import Inbox, NewConfiguration


class Adoption:
    """Gives a new configuration to the parts of one process."""

    def __init__(self, shared: Shared, node: Node, listeners: Listeners, alerts: Alerts) -> None:
        self._shared = shared
        self._node = node
        self._listeners = listeners
        self._alerts = alerts

    async def run(self, inbox: Inbox | None, stopping: asyncio.Event) -> None:
        """Adopts what comes until `stopping` is set. A fault of ours is raised: the process's
        successor begins with the new configuration."""
        if inbox is None:
            await stopping.wait()
            return
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        loop.add_reader(inbox.descriptor, woken.set)
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stopping.is_set():
                woken.clear()
                for new in inbox.each():
                    await self.adopt(new)
                came = asyncio.create_task(woken.wait())
                await asyncio.wait((came, stop), return_when=asyncio.FIRST_COMPLETED)
                came.cancel()
        finally:
            loop.remove_reader(inbox.descriptor)
            stop.cancel()

    async def adopt(self, new: NewConfiguration) -> None:
        """Works by this configuration from now on."""
        config = new.config
        self._shared.configure(config, await asyncio.to_thread(certificates_of, config))
        self._node.configure(config)
        self._alerts.configure(config.alerts, config.name)
        await self._listeners.configure(config.http, new.http, config.runtime.grace_secs)
