"""Sends a new configuration to the children, one kind after the other, and waits for none.

Guaranteed: receivers learn of it when every packer has it, since a lane names rules by the number
that the packer looks up. A child that dies meanwhile has it when it is started again. One that
could not take it (no descriptors, no memory) is sent it again, every RESEND_SECS.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastjmix.ipc.configuration import Announcer, Inbox, make_pair
from fastjmix.supervisor.children import Child, Stage
from fastjmix.supervisor.generations import Generation, Generations

ORDER: Final[Sequence[Sequence[Stage]]] = (
    (Stage.PACK,),
    (Stage.UPLOAD, Stage.RECORD, Stage.SERVE),
    (Stage.RECEIVE,),
)
"""Each kind is sent it when those before have it: what a receiver takes has a packer that knows its
rules, an uploader that knows its upstream, and an API that shows it."""

RESEND_SECS: Final = 5.0


class Links:
    """The passages to the children, by their names. They outlive a child: its successor has the
    same end."""

    def __init__(self, names: Iterable[str]) -> None:
        pairs = {name: make_pair() for name in names}
        self._announcers = {name: Announcer(pair[0]) for name, pair in pairs.items()}
        self._ends: dict[str, socket.socket] = {name: pair[1] for name, pair in pairs.items()}

    def __iter__(self) -> Iterator[Announcer]:
        return iter(self._announcers.values())

    def __getitem__(self, name: str) -> Announcer:
        return self._announcers[name]

    def inbox(self, name: str, generation: int) -> Inbox:
        """Returns the end of a child, in that child; closes all others there."""
        for announcer in self._announcers.values():
            announcer.close()
        for other, end in self._ends.items():
            if other != name:
                end.close()
        return Inbox(self._ends[name], generation)


class Announcement:
    """The newest generation, on its way to the children."""

    def __init__(self, generations: Generations, links: Links, children: Iterable[Child]) -> None:
        self.generation: Generation = generations.newest
        self._generations = generations
        self._links = links
        self._children = tuple(children)
        self._to_come = list(ORDER)
        self._awaited: list[Child] = []
        self._begun_at = self._resend_at = 0.0

    def step(self) -> bool:
        """Sends it to the next children, if those before have it. Returns True when all have it."""
        while True:
            self._awaited = [child for child in self._awaited if self._is_awaited(child)]
            if self._awaited:
                if time.monotonic() >= self._resend_at:
                    self._send()
                return False
            if not self._to_come:
                return True
            stages = self._to_come.pop(0)
            for stage in stages:
                self._generations.advance(stage)
            self._begun_at = time.monotonic()
            self._awaited = [child for child in self._children if child.stage in stages]
            self._send()

    def _is_awaited(self, child: Child) -> bool:
        """Returns False for a child that has it, or that began with it, or will."""
        adopted = self._links[child.name].adopted()
        if not child.pid or child.started > self._begun_at:
            return False
        return adopted < self.generation.number

    def _send(self) -> None:
        self._resend_at = time.monotonic() + RESEND_SECS
        for child in self._awaited:
            with contextlib.suppress(OSError):  # it is sent again
                self._send_to(child)

    def _send_to(self, child: Child) -> None:
        files, sockets = self.generation.files, self.generation.sockets
        link, number = self._links[child.name], self.generation.number
        if child.stage is Stage.UPLOAD:
            link.send(number, files.of("uploader"))
        elif child.stage is Stage.SERVE:
            link.send(number, files.of("api"), http=sockets.http)
        elif child.stage is Stage.RECEIVE:
            link.send(number, files.of("others"), dicom=sockets.dicom)
        else:
            link.send(number, files.of("others"))

    @property
    def late(self) -> list[str]:
        """The names of the children that are awaited."""
        return [child.name for child in self._awaited]

    @property
    def resend_at(self) -> float:
        """When it is sent again to those that are awaited (monotonic seconds)."""
        return self._resend_at
