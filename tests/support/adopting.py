"""The supervisor's end of the passage through which a process gets another configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence

from fastjmix.config import Config
from fastjmix.ipc.configuration import Announcer, Inbox, make_pair, write
from tests.support.gateway import until


class Supervisor:
    """Sends configurations to one process, whose end is `inbox`."""

    def __init__(self) -> None:
        mine, theirs = make_pair()
        self._announcer = Announcer(mine)
        self._generation = 1
        self.inbox = Inbox(theirs, 1)

    def send(self, config: Config, http: Sequence[socket.socket] = ()) -> None:
        """Sends a configuration, with the sockets of its HTTP listeners."""
        self._generation += 1
        file = os.memfd_create("test")
        write(file, config)
        self._announcer.send(self._generation, file, (), http)
        os.close(file)

    def adopted(self) -> bool:
        """Returns whether the process has adopted the latest one."""
        return self._announcer.adopted() == self._generation

    def configure(self, config: Config, http: Sequence[socket.socket] = ()) -> None:
        """Sends a configuration, and waits until the process has adopted it."""
        self.send(config, http)
        until(self.adopted, "the configuration is adopted")

    def close(self) -> None:
        """Closes both ends."""
        self._announcer.close()
        self.inbox.close()
