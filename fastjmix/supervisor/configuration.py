"""Keeps the configuration with its secrets where only two children look.

Wanted: tokens and passwords are in the uploader and, for callers', in the API; nowhere else.
Guaranteed: the files are read by a child of its own, which writes the tree to unnamed memory files,
one a reader, and ends; the supervisor, from which every other process is forked, never has a secret
in its memory. Each child closes what it does not read before it serves anyone. A secret that came
from the environment would stay in every process's environment, where it can be read for as long as
the process lives: the program begins again without the variables that the files named.
Where no process can be made, the start waits FORK_SECS for one; then it ends with exit code 1, so
that whoever started it tries again.
Still wrong: root, and anyone who may debug our processes, can read the files; a user of its own for
fastjmix is the operator's part.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, cast

from fastjmix.config import Config, load
from fastjmix.errors import ConfigError, FastjmixError, PlatformError

READERS: Final = ("uploader", "api")
"""Who reads a file of the vault."""

HANDED_OVER: Final = "FASTJMIX_VAULT"
"""Set by us for ourselves, when we begin again: the descriptors of the answer and of the files."""


FORK_SECS: Final = 10.0
"""Seconds that a start waits for its first process: limits of processes are reached for moments,
while others start too."""

FORK_PAUSE_SECS: Final = 0.1


class Vault:
    """Pickled configurations with secrets: the uploader's, and the API's (callers' only)."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self._files = dict(files)

    @classmethod
    def new(cls) -> Vault:
        """An empty one."""
        return cls({n: os.memfd_create(f"fastjmix-{n}", os.MFD_CLOEXEC) for n in READERS})

    @property
    def descriptors(self) -> list[int]:
        """In the order of READERS."""
        return [self._files[name] for name in READERS]

    def fill(self, config: Config) -> None:
        """Writes what each reader may know."""
        os.write(self._files["uploader"], pickle.dumps(config))
        os.write(self._files["api"], pickle.dumps(config.without_upstream_secrets()))

    def open(self, name: str) -> Config:
        """The configuration for that reader; everything is closed then, in this process."""
        descriptor = self._files[name]
        config = pickle.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        self.close()
        return cast(Config, config)

    def close(self) -> None:
        """This process will not need it (again)."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def read(path: Path) -> tuple[Config, Vault]:
    """The configuration without its secrets, and the vault that has them.

    Does not return when the files named environment variables: the program begins again without
    them, and then this gives what was read the first time. Raises ConfigError with every fault, as
    `config.load` does.
    """
    handed_over = os.environ.pop(HANDED_OVER, None)
    if handed_over is not None:
        answer, vault = _taken_over(handed_over)
        config, _ = _answered(answer, vault)
        os.close(answer)
        return config, vault
    vault = Vault.new()
    answer = os.memfd_create("fastjmix-answer", os.MFD_CLOEXEC)
    pid = _fork()
    if pid == 0:
        _read_and_exit(path, vault, answer)
    os.waitpid(pid, 0)
    config, named = _answered(answer, vault)
    if named:
        _begin_again(named, [answer, *vault.descriptors])
    os.close(answer)
    return config, vault


def _fork() -> int:
    """Calls fork(2), again while no process can be made. Raises FastjmixError after FORK_SECS."""
    deadline = time.monotonic() + FORK_SECS
    while True:
        try:
            return os.fork()
        except OSError as problem:
            if time.monotonic() >= deadline:
                raise FastjmixError(
                    f"no process can be made: {problem.strerror}",
                    "A limit of processes is reached (ulimit -u, TasksMax=, pids.max), or there is"
                    " too little memory.",
                ) from problem
        time.sleep(FORK_PAUSE_SECS)


def _answered(answer: int, vault: Vault) -> tuple[Config, list[str]]:
    """What the child found, and the variables that the files named. Raises what it raised."""
    try:
        found, named = pickle.loads(os.pread(answer, os.fstat(answer).st_size, 0))
    except (EOFError, pickle.UnpicklingError):  # it said nothing, or not all of it
        found, named = FastjmixError("the process that reads the configuration was killed"), []
    if isinstance(found, BaseException):
        vault.close()
        os.close(answer)
        raise found
    return cast(Config, found), named


def _begin_again(without: list[str], kept: list[int]) -> None:
    """The same command in a fresh image of this process, without these variables."""
    environment = {name: value for name, value in os.environ.items() if name not in without}
    environment[HANDED_OVER] = ",".join(map(str, kept))
    for descriptor in kept:
        os.set_inheritable(descriptor, True)
    sys.stdout.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    except OSError as problem:
        raise PlatformError(
            f"{sys.executable}: cannot be started again: {problem.strerror}",
            "It was, because the configuration names environment variables, which the running"
            " processes must not have; put what they hold into files instead.",
        ) from problem


def _taken_over(handed_over: str) -> tuple[int, Vault]:
    """The answer and the vault that `_begin_again` kept. Raises ConfigError for anything else."""
    try:
        answer, *files = [int(one) for one in handed_over.split(",")]
        for descriptor in (answer, *files):
            os.set_inheritable(descriptor, False)
            link = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not str(link).startswith("/memfd:fastjmix-"):
                raise ValueError
        return answer, Vault(dict(zip(READERS, files, strict=True)))
    except (OSError, ValueError):
        raise ConfigError(
            f"{HANDED_OVER} is set in the environment, and not by fastjmix", "Unset it."
        ) from None


class _Recorded(Mapping[str, str]):
    """The environment, and which of its variables were asked for."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def _read_and_exit(path: Path, vault: Vault, answer: int) -> None:
    """The child: both forms of the tree, or the error that `load` raised."""
    try:
        environment = _Recorded()
        found = _read(path, vault, environment)
        os.write(answer, pickle.dumps((found, sorted(environment.asked))))
    finally:
        os._exit(0)  # whatever happens: this is not the process that was called


def _read(path: Path, vault: Vault, environment: Mapping[str, str]) -> Config | FastjmixError:
    try:
        whole = load(path, environment)
        vault.fill(whole)
        return whole.without_secrets()
    except FastjmixError as problem:
        return problem
    except BaseException as problem:  # its text may show a secret
        return FastjmixError(f"{path}: a fault of fastjmix itself: {_where(problem)}")


def _where(problem: BaseException) -> str:
    """Returns the kind of an exception, and the line that raised it."""
    *_, (frame, line) = traceback.walk_tb(problem.__traceback__)
    return f"{type(problem).__name__}, {Path(frame.f_code.co_filename).name}:{line}"
