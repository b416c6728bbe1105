"""Keeps the configurations that processes go by: the one in force, and the one that follows it.

Guaranteed: a process that is forked gets the configuration that its kind was last sent, and no
descriptor of another. The memory files and sockets of a configuration are closed when no process is
to get it any more; a socket that the next one has, too, listens on.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fastjmix.config import Config
from fastjmix.ipc.ingest_rules import IngestRulesTable
from fastjmix.supervisor.children import Stage
from fastjmix.supervisor.memory_files import MemoryFiles
from fastjmix.supervisor.sockets import Sockets


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """A configuration without secrets, the files with them, the rules of instances by number, and
    the listening sockets.

    `number` counts from 1, `since` is in Unix seconds. `needs_restart` names keys that have no
    effect before the next start.
    """

    number: int
    config: Config
    files: MemoryFiles
    rules: IngestRulesTable
    sockets: Sockets
    needs_restart: tuple[str, ...] = ()
    since: float = field(default_factory=time.time)


class Generations:
    """The configurations of a running node. `newest` is the one in force, or soon to be."""

    def __init__(self, first: Generation) -> None:
        self.newest = first
        self._former: list[Generation] = []
        self._of = dict.fromkeys(Stage, first)

    def of(self, stage: Stage) -> Generation:
        """Returns the one with which a process of that stage begins."""
        return self._of[stage]

    def begin(self, generation: Generation) -> None:
        """Adds one. No process begins with it before `advance`."""
        self._former.append(self.newest)
        self.newest = generation

    def advance(self, stage: Stage) -> None:
        """Has processes of that stage begin with the newest from now on."""
        self._of[stage] = self.newest

    def settle(self) -> list[socket.socket]:
        """Forgets the former ones: every process goes by the newest. Returns the sockets that only
        these have."""
        former, self._former = self._former, []
        for one in former:
            one.files.close()
        ended = [s for one in former for s in one.sockets.all if s not in self.newest.sockets.all]
        return list(dict.fromkeys(ended))

    def stop_listening(self) -> None:
        """Closes all listening sockets in this process."""
        self._close_sockets(())

    def only(self, own: Generation | None, sockets: Sequence[socket.socket]) -> None:
        """Closes, in a child, all memory files but its own, and all sockets but these."""
        self._close_sockets(sockets)
        for one in self._held():
            if one is not own:
                one.files.close()

    def _close_sockets(self, kept: Sequence[socket.socket]) -> None:
        for one in self._held():
            for listening in one.sockets.all:
                if listening not in kept:
                    listening.close()

    def _held(self) -> Iterator[Generation]:
        yield from (*self._former, self.newest)
