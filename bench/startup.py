"""How long a command takes to start: `python -m bench.startup`.

Prints medians of ten, in milliseconds, of bare Python and of commands that do nothing lasting: the
time that passed, and the processor time, which says more on a busy machine. The commands take
turns, so that a busy minute counts for all of them. A first round that does not count leaves the
compiled modules behind, as an installation does.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

ROUNDS: Final = 10
REPOSITORY: Final = Path(__file__).parent.parent
FASTJMIX: Final = str(Path(sys.executable).with_name("fastjmix"))

ENVIRONMENT: Final = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}

COMMANDS: Final = {
    "python -c pass": (sys.executable, "-c", "pass"),
    "fastjmix --version": (FASTJMIX, "--version"),
    "fastjmix --help": (FASTJMIX, "--help"),
    "fastjmix check": (FASTJMIX, "check"),
}


def measure(command: tuple[str, ...]) -> tuple[float, float]:
    """Runs a command; returns the seconds that passed, and those of the processor.

    The exit code does not count: `check` wants a storage directory.
    """
    began, before = time.perf_counter(), _processor_seconds()
    subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, check=False)
    return time.perf_counter() - began, _processor_seconds() - before


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints a line for each command."""
    for command in COMMANDS.values():
        measure(command)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            taken[name].append(measure(command))
    print(f"{'milliseconds':20}  passed  processor")
    for name, values in taken.items():
        passed, processor = (statistics.median(one) * 1e3 for one in zip(*values, strict=True))
        print(f"{name:20} {passed:7.0f} {processor:10.0f}")


if __name__ == "__main__":
    main()
