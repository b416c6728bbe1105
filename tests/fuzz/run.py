"""Runs libFuzzer (atheris) over one target, and keeps what it finds.

    python -m tests.fuzz.run pdu --seconds 60        one target, from tests/fuzz/corpus/pdu
    python -m tests.fuzz.run all --seconds 600       each in turn (make fuzz SECONDS=600)
    python -m tests.fuzz.run pdu --input FILE        one input, to look at a finding

Wanted: a run that found nothing means something.
Guaranteed: a run counts what it executed, and one that executed nothing, or whose core has no
sanitizers, fails. Memory is bounded, so that a length which is believed is a crash.
A finding is shrunk and written into the corpus: commit it together with its fix.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import os
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from tests.fuzz import build

TARGETS: Final = ("pdu", "associate", "command", "head")
CORPUS: Final = Path(__file__).parent / "corpus"

INPUT_BYTES: Final = {"pdu": 2048, "associate": 4096, "command": 1024, "head": 2048}
"""The longest input of each target: short ones are tried more often."""

PYTHON_ROOMS: Final = {"associate": ["fastjmix.dicom", "pynetdicom.pdu", "pynetdicom.pdu_items"]}
"""Interpreted code whose branches guide the fuzzer too."""

RSS_MB: Final = 1024
MALLOC_MB: Final = 64
"""MB that one allocation may ask for: the largest honest one is 256 KB (a deflated head)."""

INPUT_SECS: Final = 20
"""One input that takes longer hangs; a busy machine needs less than a second."""

START_SECS: Final = 120
"""For starting under AddressSanitizer, reading the corpus and ending, beside the time to fuzz."""

SHRINK_TRIES: Final = 3000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run. `found` is the input that broke the invariant, or crashed."""

    executions: int
    found: bytes | None
    output: str


def load_core() -> None:
    """Puts the sanitized core in the place of the ordinary one."""
    name = "fastjmix._core"
    specification = importlib.util.spec_from_file_location(name, build.core())
    assert specification is not None
    assert specification.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)


def load_target(name: str) -> Callable[[bytes], None]:
    """`one` of a target, or a function of the controls."""
    if name.startswith("control."):
        specification = importlib.util.spec_from_file_location("fuzz_control", build.control())
        assert specification is not None
        assert specification.loader is not None
        controls: ModuleType = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(controls)
        one: Callable[[bytes], None] = getattr(controls, name.removeprefix("control."))
    else:
        one = importlib.import_module(f"tests.fuzz.target_{name}").one
    return one


def run(name: str, options: list[str], corpus: list[Path], seconds: float) -> Outcome:
    """libFuzzer over one target, in a process. Raises RuntimeError when nothing was fuzzed."""
    build.build()
    with tempfile.TemporaryDirectory() as found:
        done = subprocess.run(
            [
                sys.executable, "-m", "tests.fuzz.run", name, "--child",
                f"-artifact_prefix={found}/", f"-max_len={INPUT_BYTES.get(name, 64)}",
                f"-rss_limit_mb={rss_limit()}", f"-malloc_limit_mb={MALLOC_MB}",
                f"-timeout={INPUT_SECS}", "-print_final_stats=1", "-len_control=20",
                *options, *map(str, corpus),
            ],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=seconds + START_SECS,
        )  # fmt: skip
        output = done.stdout.decode("utf-8", "backslashreplace")
        inputs = [path.read_bytes() for path in Path(found).iterdir()]
    counted = re.findall(r"stat::number_of_executed_units: (\d+)", output)
    executions = int(counted[-1]) if counted else 0
    if (done.returncode == 0) == bool(inputs) or (done.returncode == 0 and not executions):
        raise RuntimeError(f"nothing was fuzzed (exit {done.returncode}):\n{output[-4000:]}")
    return Outcome(executions, inputs[0] if inputs else None, output)


def rss_limit() -> int:
    """Returns the limit of the peak resident size, in MB.

    libFuzzer takes the peak from getrusage(2). A process has that of the one which started it, and
    a pytest worker may have had more than RSS_MB by now.
    """
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return max(RSS_MB, own + RSS_MB // 4)


def environment(further: str = "") -> dict[str, str]:
    """A process whose first library is the sanitizers' runtime with libFuzzer in it."""
    runtime = Path(sysconfig.get_path("platlib")) / "asan_with_fuzzer.so"
    if not runtime.exists():
        raise RuntimeError("fuzzing needs atheris: pip install --group fuzz")
    return {
        **os.environ,
        "LD_PRELOAD": str(runtime),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONMALLOC": "malloc",  # each object has red zones of its own
        "PYTHONHASHSEED": "0",
        # Memory that an interpreter leaves at its end is not a leak.
        "ASAN_OPTIONS": f"detect_leaks=0:quarantine_size_mb=32{further}",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }


def child(name: str, options: list[str]) -> None:
    """Inside the process of `run`: does not return."""
    import atheris

    load_core()
    rooms = PYTHON_ROOMS.get(name)
    if rooms:
        with atheris.instrument_imports(include=rooms):
            one = load_target(name)
    else:
        one = load_target(name)
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


def shrink(name: str, data: bytes) -> bytes:
    """A smaller input that fails too: pieces are left out, smaller and smaller ones."""
    limit = f":symbolize=0:max_allocation_size_mb={MALLOC_MB}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, "--shrink"],
        env=environment(limit), input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        check=True,
    )  # fmt: skip
    return done.stdout


def shrink_here(name: str) -> None:
    """Inside the process of `shrink`: standard input to standard output."""
    load_core()
    one = load_target(name)
    data = sys.stdin.buffer.read()
    tries, size = 0, len(data)
    while size and tries < SHRINK_TRIES:
        at = 0
        while at < len(data) and tries < SHRINK_TRIES:
            tries += 1
            shorter = data[:at] + data[at + size :]
            if fails(one, shorter):
                data = shorter
            else:
                at += size
        size //= 2
    sys.stdout.buffer.write(data)


def fails(one: Callable[[bytes], None], data: bytes) -> bool:
    """Try one input in a child: a crash ends it, an exception too."""
    pid = os.fork()
    if pid == 0:
        try:
            one(data)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


def keep(name: str, data: bytes) -> Path:
    """Into the corpus, under its digest."""
    path = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path


def fuzz(name: str, seconds: int) -> bool:
    """One target from the command line. False: something was found."""
    grown = build.OUT / "corpus" / name
    grown.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}"]
    outcome = run(name, options, [grown, CORPUS / name], seconds)
    if outcome.found is None:
        print(f"{name}: {outcome.executions} executions, nothing found", flush=True)
        return True
    path = keep(name, shrink(name, outcome.found))
    print(f"{outcome.output[-6000:]}\n{name}: found after {outcome.executions} executions: {path}")
    return False


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--input", type=Path)
    parser.add_argument("--shrink", action="store_true")
    given, options = parser.parse_known_args()
    if options[:1] == ["--child"]:
        child(given.target, options[1:])
    elif given.shrink:
        shrink_here(given.target)
    elif given.input:
        load_target(given.target)(given.input.read_bytes())
    else:
        names = TARGETS if given.target == "all" else (given.target,)
        quiet = [fuzz(name, given.seconds) for name in names]
        return 0 if all(quiet) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
