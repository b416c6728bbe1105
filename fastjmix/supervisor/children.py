"""Forks the supervisor's children, collects them, and starts them again for as long as it takes.

Wanted: a process that cannot be made now is made later, and ends nothing else meanwhile.
Guaranteed: a child that died, or for which no process could be made (RLIMIT_NPROC, a cgroup's
pids.max, no memory), is tried again after a pause that doubles from RESTART_SECS to
RESTART_MAX_SECS. An error with one child does not keep the others from being started or collected.
A forked process runs nothing else of the parent: it ends in os._exit, whatever happens. A child
without its log file logs to stderr. Out of memory, the kernel kills children before the supervisor.
A child may gain no privilege.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, NoReturn

from fastjmix import log
from fastjmix.config import LogSettings
from fastjmix.errors import FastjmixError
from fastjmix.ipc.metrics import Metrics

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38

RESTART_SECS: Final = 0.1
RESTART_MAX_SECS: Final = 10.0
"""The pause before a restart doubles from RESTART_SECS to RESTART_MAX_SECS while a child keeps
dying, or no process can be made for it."""

HEALTHY_SECS: Final = 60.0
"""A child that has lived for so long is started again after the short pause."""

# Loaded before anything is forked: a child may have no memory or descriptor left to load it.
_LIBC: Final = ctypes.CDLL(None)


class Stage(IntEnum):
    """The order of the drain: a stage is stopped when the one before it has ended."""

    RECEIVE = 0
    PACK = 1
    SERVE = 2
    UPLOAD = 3  # after these: packers and API may wait for its outcomes
    RECORD = 4  # last: it writes down what the others did until they ended


OOM_SCORES: Final[Mapping[Stage, int]] = {
    Stage.RECORD: 800,
    Stage.SERVE: 700,
    Stage.UPLOAD: 500,
    Stage.RECEIVE: 250,
    Stage.PACK: 150,
}
"""Added to the supervisor's oom_score_adj, in thousandths of the memory limit. The kernel adds this
to the memory that a process has mapped, and kills the process with the highest sum. Without the
supervisor everything ends. Without a packer its open envelopes must be recovered; without a
receiver associations break; without the uploader delivery waits; without the API queries do;
without the ledger's process its events wait. Receivers and packers map the lanes, which their death
does not free: so the other three have far higher scores. A program beside fastjmix that has most of
the machine's memory is still killed first."""


@dataclass(slots=True, eq=False)
class Child:
    """A process to keep alive. `start` runs in the child and returns when it has drained."""

    name: str
    stage: Stage
    start: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    pause: float = RESTART_SECS
    due: float | None = None
    died: bool = False


class Children:
    """All children. `died` is called in the parent when one has ended; `unwanted` are
    the descriptors that only the parent uses."""

    def __init__(
        self,
        children: Sequence[Child],
        settings: LogSettings,
        metrics: Metrics,
        died: Callable[[], None],
        unwanted: Iterable[int],
    ) -> None:
        self._children = tuple(children)
        self._settings = settings
        self._metrics = metrics
        self._died = died
        self._unwanted = tuple(unwanted)
        self._log = log.get()

    def configure(self, settings: LogSettings) -> None:
        """Starts children with other settings of the log from now on."""
        self._settings = settings

    def __iter__(self) -> Iterator[Child]:
        return iter(self._children)

    def start(self, child: Child) -> None:
        """Forks a child. When no process can be made, the child is due again after its pause."""
        parent = os.getpid()
        try:
            pid = os.fork()
        except (OSError, MemoryError) as problem:
            self._put_off(child)
            self._log.error(
                "child_not_started", child=child.name, why=repr(problem), retry_secs=child.pause
            )
            return
        if not pid:
            try:
                _run(child, parent, self._settings, self._unwanted)
            finally:
                os._exit(1)
        child.pid, child.started, child.due = pid, time.monotonic(), None
        if child.died:
            self._metrics.add("children_restarted_total")
            self._metrics.count("restarts_total", child.name.partition("-")[0])
            self._log.warning("child_restarted", child=child.name)

    def start_due(self) -> None:
        """Starts the children whose pause is over."""
        now = time.monotonic()
        for child in self._children:
            if child.due is not None and child.due <= now:
                self._guarded(self.start, child)
        self._count()

    def collect(self, *, stopping: bool) -> None:
        """Notes which children have ended, and when each is to be started again."""
        for child in self._children:
            if child.pid:
                self._guarded(lambda child: self._collect(child, stopping=stopping), child)
        self._count()

    def _collect(self, child: Child, *, stopping: bool) -> None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            how = _how(status)
        except ChildProcessError:
            pid, how = child.pid, "unknown: nobody can tell any more"
        if not pid:
            return
        child.pid, child.died = 0, True
        if time.monotonic() - child.started > HEALTHY_SECS:
            child.pause = RESTART_SECS
        self._put_off(child)
        self._died()
        if not stopping:
            self._log.error("child_died", child=child.name, how=how)

    def _put_off(self, child: Child) -> None:
        child.due = time.monotonic() + child.pause
        child.pause = min(child.pause * 2, RESTART_MAX_SECS)

    def _guarded(self, step: Callable[[Child], None], child: Child) -> None:
        """Runs a step for one child; an error in it does not concern the others."""
        try:
            step(child)
        except Exception:
            self._log.exception("child_not_handled", child=child.name)
            if not child.pid:
                self._put_off(child)

    def _count(self) -> None:
        """Counts the receivers and packers that do not run, for /readyz."""
        for name, stage in (("receivers_down", Stage.RECEIVE), ("packers_down", Stage.PACK)):
            self._metrics.set(name, sum(c.stage == stage and not c.pid for c in self._children))

    def wait_secs(self) -> float | None:
        """Returns the seconds until the next child is due; None when none is."""
        due = [child.due for child in self._children if child.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def alive(self, stage: Stage) -> bool:
        """Returns True while a child of that stage has not ended."""
        return any(child.pid for child in self._children if child.stage == stage)

    def reopen_logs(self) -> None:
        """Lets every child open the log file by its name again (SIGUSR1)."""
        for child in self._children:
            if child.pid:
                with contextlib.suppress(OSError):  # it has ended, and is collected soon
                    os.kill(child.pid, signal.SIGUSR1)

    def kill(self, stage: Stage | None) -> None:
        """Sends SIGKILL to the children of a stage, or (None) of all stages."""
        for child in self._children:
            if child.pid and (stage is None or child.stage == stage):
                self._log.warning("child_killed", child=child.name)
                with contextlib.suppress(OSError):
                    os.kill(child.pid, signal.SIGKILL)


def _run(child: Child, parent: int, settings: LogSettings, unwanted: Iterable[int]) -> NoReturn:
    """Runs the forked process. Never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent ends its children in order
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda *_: log.get().reopen())
        signal.siginterrupt(signal.SIGUSR1, False)  # compiled code calls the kernel without a loop
        end_with_parent(parent)
        _LIBC.prctl(PR_SET_NAME, child.name.encode())
        _LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        for descriptor in unwanted:
            os.close(descriptor)
        _raise_oom_score(OOM_SCORES[child.stage])
        try:
            log.setup(
                settings.level, settings.file, child.name, settings.format, settings.study_uids
            )
        except OSError as problem:
            log.get().error("log_file_failed", file=settings.file, why=problem.strerror)
        child.start()
        code = 0
    except FastjmixError as problem:
        log.get().error("child_failed", why=str(problem))
    except BaseException:
        log.get().exception("child_failed")
    finally:
        os._exit(code)  # whatever happens: this is not the supervisor


def _raise_oom_score(by: int) -> None:
    """Lets the kernel, out of memory, kill this process before the supervisor. Where the score may
    not be set, the kernel chooses by size.
    """
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        file.write_text(str(min(int(file.read_text()) + by, 1000)))


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends. Ends it where that has happened."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def protect_memory() -> None:
    """Protects a process that has a secret: it writes no core file, and only root can read its
    memory.
    """
    _LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _how(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"exit code {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
