"""Reads the configuration files in a process of its own, which then ends.

Guaranteed: the process that asks has no secret in its memory, before or after: what is secret goes
to memory files that it does not open (memory_files.py). It waits for nothing, unless it wants to.
A reader that is killed, or that never ends, is an error like a fault of the files.
The value of a variable that a configuration names stays the one of the start. The environment may
not have it any more (configuration.py), so each reader writes the variables down for the next.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn, cast

from fastjmix.config import Config, load
from fastjmix.errors import FastjmixError
from fastjmix.failpoints import reach
from fastjmix.supervisor.children import end_with_parent
from fastjmix.supervisor.held_back import held_back
from fastjmix.supervisor.memory import Plan
from fastjmix.supervisor.memory_files import PREFIX, MemoryFiles

NOTHING: Final[tuple[str, ...]] = ()

KILLED: Final = "the process that reads the configuration was killed"


@dataclass(frozen=True, slots=True)
class Running:
    """The configuration in force, without secrets, and the lanes that there are."""

    config: Config
    plan: Plan


@dataclass(frozen=True, slots=True)
class Found:
    """A configuration that was read, without secrets. `needs_restart` names keys that were changed
    and stay as they were. `named` are the environment variables that the files name, `exposed`
    those of them that this process has in its environment."""

    config: Config
    named: tuple[str, ...]
    exposed: tuple[str, ...]
    needs_restart: tuple[str, ...]


class Reading:
    """A process that reads the configuration at `path`, and writes what it finds to `files`.

    `running` None: nothing runs yet. `known` has the variables of the configuration before. Raises
    OSError where no process or memory file can be made.
    """

    def __init__(
        self,
        path: Path,
        files: MemoryFiles,
        running: Running | None = None,
        known: MemoryFiles | None = None,
    ) -> None:
        self._answer = os.memfd_create(f"{PREFIX}answer", os.MFD_CLOEXEC)
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._answer)
            raise
        if self._pid == 0:
            _read_and_exit(_Job(path, files, running, known, self._answer), parent)

    def finished(self, *, wait: bool = False) -> bool:
        """Returns whether the process has ended; with `wait` it waits for that."""
        if self._pid:
            pid, _ = os.waitpid(self._pid, 0 if wait else os.WNOHANG)
            self._pid = 0 if pid else self._pid
        return not self._pid

    def take(self) -> tuple[Found, int]:
        """Returns what was found, and the memory file that says so: the caller closes it. Raises
        the error that `config.load` raised, FastjmixError where the process was killed."""
        try:
            return answer_in(self._answer), self._answer
        except BaseException:
            os.close(self._answer)
            raise

    def give_up(self) -> None:
        """Kills the process. `take` may not be called any more."""
        with contextlib.suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.waitpid(self._pid, 0)
        os.close(self._answer)


def answer_in(file: int) -> Found:
    """Returns what a reader wrote to this memory file. Raises what it wrote, if that is an error;
    FastjmixError where it wrote nothing, or not all of it."""
    try:
        found = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    except (EOFError, pickle.UnpicklingError):
        raise FastjmixError(KILLED) from None
    if isinstance(found, BaseException):
        raise found
    return cast(Found, found)


# -- in the process that reads -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """The arguments of Reading, and the memory file for the answer."""

    path: Path
    files: MemoryFiles
    running: Running | None
    known: MemoryFiles | None
    answer: int


class _Environment(Mapping[str, str]):
    """The environment, with the variables of the configuration before, and which of its variables
    were read (`asked`)."""

    def __init__(self, known: Mapping[str, str]) -> None:
        self.asked: set[str] = set()
        self._known = known

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return self._known[name] if name in self._known else os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**os.environ, **self._known})

    def __len__(self) -> int:
        return len({**os.environ, **self._known})

    def kept(self) -> dict[str, str]:
        """Returns the variables that the next reader is to know."""
        asked = {name: os.environ[name] for name in self.asked if name in os.environ}
        return {**asked, **self._known}


def _read_and_exit(job: _Job, parent: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # the parent decides when to give up
        end_with_parent(parent)
        os.write(job.answer, pickle.dumps(_read(job)))
    finally:
        os._exit(0)  # whatever happens: this is not the process that was called


def _read(job: _Job) -> Found | FastjmixError:
    try:
        environment = _Environment(job.known.environment() if job.known is not None else {})
        whole, needs_restart = load(job.path, environment), NOTHING
        if job.running is not None:
            reach("reload.read")
            whole, needs_restart = held_back(job.running.config, whole, job.running.plan)
        job.files.fill(whole, environment.kept())
        named = tuple(sorted(environment.asked))
        exposed = tuple(name for name in named if name in os.environ)
        return Found(whole.without_secrets(), named, exposed, needs_restart)
    except FastjmixError as problem:
        return problem
    except BaseException as problem:  # its text may show a secret
        return FastjmixError(f"{job.path}: a fault of fastjmix itself: {_where(problem)}")


def _where(problem: BaseException) -> str:
    """Returns the kind of an exception, and the line that raised it."""
    *_, (frame, line) = traceback.walk_tb(problem.__traceback__)
    return f"{type(problem).__name__}, {Path(frame.f_code.co_filename).name}:{line}"
