"""Reads the configuration at the start, so that its secrets reach two processes only.

Wanted: tokens and passwords are in the uploader and, those of callers, in the API; nowhere else.
Guaranteed: a child of its own reads the files, writes the tree to unnamed memory files, one for
each reader, and ends (reading.py, memory_files.py). The supervisor, from which every other process
is forked, never has a secret in its memory. Each child closes the memory files that it does not
read before it serves anyone. A secret that came from the environment would stay in every process's
environment, where it can be read for as long as the process lives: so the program executes itself
again without the variables that the files named. Where no process can be made, the start waits
FORK_SECS for one; then it ends with exit code 1, so that a service manager tries again. Still
wrong: root, and any user who may debug these processes, can read the memory files. To run fastjmix
under a user of its own is the operator's part.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastjmix.config import Config
from fastjmix.errors import ConfigError, FastjmixError, PlatformError
from fastjmix.supervisor.memory_files import PREFIX, READERS, MemoryFiles
from fastjmix.supervisor.reading import Reading, answer_in

HANDED_OVER: Final = "FASTJMIX_VAULT"
"""The environment variable that passes the descriptors of the memory files when the program
executes itself again."""

FORK_SECS: Final = 10.0
"""Seconds that a start waits for its first process. A limit of processes may be reached for a
moment, while other services start too."""

FORK_PAUSE_SECS: Final = 0.1

NO_PROCESS: Final = (
    "A limit of processes is reached (ulimit -u, TasksMax=, pids.max), or there is too little"
    " memory."
)


def read(path: Path) -> tuple[Config, MemoryFiles]:
    """Returns the configuration without its secrets, and the memory files with them.

    Does not return when the files named environment variables: the program executes itself again
    without them, and then this returns what was read the first time. Raises ConfigError with every
    fault, as `config.load` does.
    """
    handed_over = os.environ.pop(HANDED_OVER, None)
    if handed_over is not None:
        answer, files = _taken_over(handed_over)
        found = answer_in(answer)
    else:
        files = MemoryFiles.new()
        reading = _begun(path, files)
        reading.finished(wait=True)
        found, answer = reading.take()
        if found.named:
            _execute_again(found.named, [answer, *files.descriptors])
    os.close(answer)
    return found.config, files


def _begun(path: Path, files: MemoryFiles) -> Reading:
    """Begins to read, again while no process can be made. Raises FastjmixError after FORK_SECS."""
    deadline = time.monotonic() + FORK_SECS
    while True:
        try:
            return Reading(path, files)
        except OSError as problem:
            if time.monotonic() >= deadline:
                raise FastjmixError(
                    f"no process can be made: {problem.strerror}", NO_PROCESS
                ) from problem
        time.sleep(FORK_PAUSE_SECS)


def _execute_again(without: Sequence[str], kept: list[int]) -> None:
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


def _taken_over(handed_over: str) -> tuple[int, MemoryFiles]:
    """Returns the answer and the memory files that `_execute_again` kept. Raises ConfigError for
    anything else.
    """
    try:
        answer, *files = [int(one) for one in handed_over.split(",")]
        for descriptor in (answer, *files):
            os.set_inheritable(descriptor, False)
            link = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not str(link).startswith(f"/memfd:{PREFIX}"):
                raise ValueError
        return answer, MemoryFiles(dict(zip(READERS, files, strict=True)))
    except (OSError, ValueError):
        raise ConfigError(
            f"{HANDED_OVER} is set in the environment, and not by fastjmix", "Unset it."
        ) from None
