"""Reads the configuration in a child, so that its secrets reach two processes only.

Wanted: tokens and passwords are in the uploader and, those of callers, in the API; nowhere else.
Guaranteed: a child of its own reads the files, writes the tree to unnamed memory files, one for
each reader, and ends. The supervisor, from which every other process is forked, never has a secret
in its memory. Each child closes the memory files that it does not read before it serves anyone. A
secret that came from the environment would stay in every process's environment, where it can be
read for as long as the process lives: so the program executes itself again without the variables
that the files named.
Where no process can be made, the start waits FORK_SECS for one; then it ends with exit code 1, so
that a service manager tries again.
Still wrong: root, and any user who may debug these processes, can read the memory files. To run
fastjmix under a user of its own is the operator's part.
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
"""The processes that read a configuration with secrets."""

HANDED_OVER: Final = "FASTJMIX_VAULT"
"""The environment variable that passes the descriptors of the memory files when the program
executes itself again."""

FORK_SECS: Final = 10.0
"""Seconds that a start waits for its first process. A limit of processes may be reached for a
moment, while other services start too."""

FORK_PAUSE_SECS: Final = 0.1


class SecretConfigs:
    """The configurations with secrets, pickled: the uploader's, and the API's (callers' secrets
    only). `files` maps each reader to the descriptor of its memory file."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self._files = dict(files)

    @classmethod
    def new(cls) -> SecretConfigs:
        """Makes empty memory files."""
        return cls({n: os.memfd_create(f"fastjmix-{n}", os.MFD_CLOEXEC) for n in READERS})

    @property
    def descriptors(self) -> list[int]:
        """The descriptors, in the order of READERS."""
        return [self._files[name] for name in READERS]

    def fill(self, config: Config) -> None:
        """Writes the part of the configuration that each reader may know."""
        os.write(self._files["uploader"], pickle.dumps(config))
        os.write(self._files["api"], pickle.dumps(config.without_upstream_secrets()))

    def open(self, name: str) -> Config:
        """Returns the configuration for that reader, and closes all memory files."""
        descriptor = self._files[name]
        config = pickle.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        self.close()
        return cast(Config, config)

    def close(self) -> None:
        """Closes all memory files in this process."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}


def read(path: Path) -> tuple[Config, SecretConfigs]:
    """Returns the configuration without its secrets, and the configurations with them.

    Does not return when the files named environment variables: the program executes itself again
    without them, and then this returns what was read the first time. Raises ConfigError with every
    fault, as `config.load` does.
    """
    handed_over = os.environ.pop(HANDED_OVER, None)
    if handed_over is not None:
        answer, secrets = _taken_over(handed_over)
        config, _ = _answered(answer, secrets)
        os.close(answer)
        return config, secrets
    secrets = SecretConfigs.new()
    answer = os.memfd_create("fastjmix-answer", os.MFD_CLOEXEC)
    pid = _fork()
    if pid == 0:
        _read_and_exit(path, secrets, answer)
    os.waitpid(pid, 0)
    config, named = _answered(answer, secrets)
    if named:
        _execute_again(named, [answer, *secrets.descriptors])
    os.close(answer)
    return config, secrets


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


def _answered(answer: int, secrets: SecretConfigs) -> tuple[Config, list[str]]:
    """Returns what the child read, and the variables that the files named. Raises the error that
    the child raised.
    """
    try:
        found, named = pickle.loads(os.pread(answer, os.fstat(answer).st_size, 0))
    except (EOFError, pickle.UnpicklingError):  # it wrote nothing, or not all of it
        found, named = FastjmixError("the process that reads the configuration was killed"), []
    if isinstance(found, BaseException):
        secrets.close()
        os.close(answer)
        raise found
    return cast(Config, found), named


def _execute_again(without: list[str], kept: list[int]) -> None:
    """Executes the same command in this process again, without these variables."""
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


def _taken_over(handed_over: str) -> tuple[int, SecretConfigs]:
    """Returns the answer and the memory files that `_execute_again` kept. Raises ConfigError for
    anything else.
    """
    try:
        answer, *files = [int(one) for one in handed_over.split(",")]
        for descriptor in (answer, *files):
            os.set_inheritable(descriptor, False)
            link = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not str(link).startswith("/memfd:fastjmix-"):
                raise ValueError
        return answer, SecretConfigs(dict(zip(READERS, files, strict=True)))
    except (OSError, ValueError):
        raise ConfigError(
            f"{HANDED_OVER} is set in the environment, and not by fastjmix", "Unset it."
        ) from None


class _Recorded(Mapping[str, str]):
    """The environment, and which of its variables were read (`asked`)."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return os.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def _read_and_exit(path: Path, secrets: SecretConfigs, answer: int) -> None:
    """Writes both forms of the tree, or the error that `load` raised: the child's part."""
    try:
        environment = _Recorded()
        found = _read(path, secrets, environment)
        os.write(answer, pickle.dumps((found, sorted(environment.asked))))
    finally:
        os._exit(0)  # whatever happens: this is not the process that was called


def _read(
    path: Path, secrets: SecretConfigs, environment: Mapping[str, str]
) -> Config | FastjmixError:
    try:
        whole = load(path, environment)
        secrets.fill(whole)
        return whole.without_secrets()
    except FastjmixError as problem:
        return problem
    except BaseException as problem:  # its text may show a secret
        return FastjmixError(f"{path}: a fault of fastjmix itself: {_where(problem)}")


def _where(problem: BaseException) -> str:
    """Returns the kind of an exception, and the line that raised it."""
    *_, (frame, line) = traceback.walk_tb(problem.__traceback__)
    return f"{type(problem).__name__}, {Path(frame.f_code.co_filename).name}:{line}"
