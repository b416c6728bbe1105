"""Replaces the configuration of a running node: `fastjmix reload`, SIGHUP.

Wanted: a new AE table, credential, rule or limit needs no restart, and no association notices.
Guaranteed: a configuration with a fault, or with a listener that cannot be opened, is refused
whole, and every fault is named; the one before it stays. Changes that need a start are held back
(held_back.py), and the rest is applied. The supervisor waits for nobody meanwhile: `step` does what
can be done now. An answer comes ADOPT_SECS after the configuration was read at the latest. A
process that has not taken it by then is named, and takes it later; no other reload begins before.

A reload goes through these: asked → a process reads the files (reading.py) → the sockets of new
listeners are opened → the children are sent it (announcements.py) → what only the old one had is
closed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from fastjmix import log
from fastjmix.errors import ConfigError, FastjmixError, PlatformError
from fastjmix.ipc.channels import address_of
from fastjmix.ipc.configuration import SOCKETS_MAX
from fastjmix.ipc.requests import NodeAnswer, NodeRequest
from fastjmix.supervisor.announcements import Announcement
from fastjmix.supervisor.board_row import BoardRow
from fastjmix.supervisor.children import Child
from fastjmix.supervisor.generations import Generation
from fastjmix.supervisor.memory import Plan
from fastjmix.supervisor.memory_files import MemoryFiles
from fastjmix.supervisor.reading import Found, Reading, Running
from fastjmix.supervisor.shared import Shared
from fastjmix.supervisor.sockets import Sockets, end, listen_at, log_listening

READ_SECS: Final = 20.0
"""Seconds for which the files are read at most: one may be on a mount that does not answer."""

ADOPT_SECS: Final = 2.0
"""Seconds that the processes have, all together, until the answer."""


class Reload:
    """The reloads of one node.

    `answer` sends an answer to who asked. `began` and `ended` are called at the begin of each and
    with its answer, `applied` with a configuration before the children get it.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        shared: Shared,
        children: Iterable[Child],
        row: BoardRow,
        *,
        answer: Callable[[NodeAnswer], None],
        began: Callable[[], None],
        applied: Callable[[Generation], None],
        ended: Callable[[], None],
    ) -> None:
        self._path = path
        self._plan = plan
        self._generations = shared.generations
        self._links = shared.links
        self._inherited = shared.inherited
        self._children = tuple(children)
        self._row = row
        self._answer = answer
        self._began, self._applied, self._ended = began, applied, ended
        self._next: list[NodeRequest] = []
        self._served: list[NodeRequest] = []
        self._reading: Reading | None = None
        self._files = shared.generations.newest.files
        self._announcement: Announcement | None = None
        self._warnings: tuple[str, ...] = ()
        self._asked_at = 0.0
        self._due = math.inf
        self._log = log.get()

    def ask(self, request: NodeRequest) -> None:
        """Asks for a reload. One that is asked for while another goes on begins behind it: the
        files may have changed since."""
        self._log.info("reload_asked", by=request.by)
        self._next.append(request)

    @property
    def wait_secs(self) -> float | None:
        """Returns the seconds until `step` has something to do, if no child ends or says anything;
        None where it has not."""
        if self._next and self._is_idle:
            return 0.0
        due = self._due
        if self._announcement is not None:
            due = min(due, self._announcement.resend_at)
        return None if math.isinf(due) else max(0.0, due - time.monotonic())

    def step(self) -> None:
        """Does what can be done now."""
        if self._next and self._is_idle:
            self._begin()
        if self._reading is not None:
            self._read(self._reading)
        if self._announcement is not None:
            self._announce(self._announcement)

    def end(self, why: str) -> None:
        """Ends all reloads, and answers those who wait for one that it was not done, and why."""
        if self._reading is not None:
            self._reading.give_up()
            self._files.close()
        self._reading = self._announcement = None
        self._due = math.inf
        answer = NodeAnswer(0, False, self._generations.newest.number, (why,))
        for request in (*self._served, *self._next):
            self._answer(answer.to(request))
        self._served, self._next = [], []

    @property
    def _is_idle(self) -> bool:
        return self._reading is None and self._announcement is None

    def _begin(self) -> None:
        self._served, self._next = self._next, []
        self._began()
        self._asked_at = time.monotonic()
        self._due = self._asked_at + READ_SECS
        newest = self._generations.newest
        try:
            self._files = MemoryFiles.new()
            try:
                running = Running(newest.config, self._plan)
                self._reading = Reading(self._path, self._files, running, newest.files)
            except OSError:
                self._files.close()
                raise
        except OSError as problem:
            self._refuse(FastjmixError(f"no process can be made: {problem.strerror}"))

    def _read(self, reading: Reading) -> None:
        """Goes on when the files have been read, or cannot be."""
        finished = reading.finished()
        if not finished and time.monotonic() < self._due:
            return
        self._reading = None
        try:
            if not finished:
                reading.give_up()
                raise FastjmixError(f"{self._path}: not read within {READ_SECS:g} s")
            found, answer = reading.take()
            os.close(answer)
            generation = self._made(found)
        except (FastjmixError, OSError) as problem:
            self._files.close()
            self._refuse(problem)
            return
        self._generations.begin(generation)
        self._applied(generation)
        self._announcement = Announcement(self._generations, self._links, self._children)
        self._due = time.monotonic() + ADOPT_SECS

    def _made(self, found: Found) -> Generation:
        """Returns the generation of a configuration, its new listeners opened. Raises FastjmixError
        where it has too many rules or listeners, or one that cannot be opened; OSError."""
        before, config = self._generations.newest, found.config
        if max(len(config.dicom), len(config.http)) > SOCKETS_MAX:
            raise ConfigError(
                f"more than {SOCKETS_MAX} listeners of one kind", "Restart fastjmix for so many."
            )
        rules = before.rules.extended(config)
        self._files.fill_for_others(config, rules)
        sockets = self._opened(found, before)
        log_listening(self._log, config, sockets, but=before.sockets)
        exposed = f"in the environment of each process until the next start: {found.exposed}"
        self._warnings = config.warnings + ((exposed,) if found.exposed else ())
        for warning in self._warnings:
            self._log.warning("configuration_warning", what=warning)
        number = before.number + 1
        return Generation(number, config, self._files, rules, sockets, found.needs_restart)

    def _opened(self, found: Found, before: Generation) -> Sockets:
        """Returns the sockets of a configuration. Raises PlatformError; says so where the port is
        taken by a listener of this node that is to go."""
        try:
            return listen_at(found.config, self._inherited, (before.config, before.sockets))
        except PlatformError as problem:
            own = {address_of(one)[1] for one in before.sockets.all}
            if own.isdisjoint(one.port for one in found.config.listeners):
                raise
            hint = " A listener that is to go may have it: reload once without either."
            raise PlatformError(problem.message, problem.hint + hint) from problem

    def _refuse(self, problem: Exception) -> None:
        """Answers that nothing was done, and why."""
        faults = tuple(map(str, getattr(problem, "faults", ()) or (problem,)))
        self._due = math.inf
        number = self._generations.newest.number
        for fault in faults:
            self._log.warning("configuration_fault", what=" ".join(fault.split()))
        self._log.error("not_reloaded", faults=len(faults), generation=number)
        self._row.refused(faults)
        self._answer_all(NodeAnswer(0, False, number, faults))

    def _announce(self, announcement: Announcement) -> None:
        """Goes on when children have taken it; answers when all have, or the time is up."""
        done = announcement.step()
        now = time.monotonic()
        if done:
            self._settle()
        if done or now >= self._due:
            self._due = math.inf
            self._conclude(announcement, round(now - self._asked_at, 3))

    def _settle(self) -> None:
        self._announcement = None
        for listening in self._generations.settle():
            self._log.info("listening_ended", address=end(listening, self._inherited))

    def _conclude(self, announcement: Announcement, secs: float) -> None:
        generation, late = announcement.generation, announcement.late
        self._row.configured(generation, late)
        named = ", ".join(generation.needs_restart) or None
        about = {"generation": generation.number, "seconds": secs, "needs_restart": named}
        if late:
            self._log.warning("reload_late", processes=", ".join(late), **about)
            self._warnings += (f"not taken yet, and will be: {', '.join(late)}",)
        else:
            self._log.info("reloaded", **about)
        keys = generation.needs_restart
        self._answer_all(NodeAnswer(0, True, generation.number, (), self._warnings, keys))

    def _answer_all(self, answer: NodeAnswer) -> None:
        for request in self._served:
            self._answer(answer.to(request))
        self._served = []
        self._ended()
