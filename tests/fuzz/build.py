"""Builds the core and the controls with sanitizers and coverage, beside the ordinary ones.

Wanted: what is fuzzed is what is shipped, compiled from the same sources by the same setup.py.
Guaranteed: nothing outside build/fuzz is written; several processes may ask at once, one builds.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
OUT: Final = ROOT / "build" / "fuzz"
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX")
LIBRARIES: Final = OUT / f"lib{SUFFIX.removesuffix('.so')}"
"""One for each Python, so that `make test-pythons` builds each once."""

SANITIZE: Final = "fuzzer-no-link,address,undefined"
NEEDED: Final = (b"__asan_report_load1", b"__ubsan_handle_", b"__sanitizer_cov_8bit_counters_init")
"""Symbols that a library compiled with them asks its runtime for."""

BUILD_SECS: Final = 300


def core() -> Path:
    """The sanitized fastjmix._core."""
    return LIBRARIES / "fastjmix" / f"_core{SUFFIX}"


def control() -> Path:
    """The deliberate faults, compiled with the same flags."""
    return LIBRARIES / f"fuzz_control{SUFFIX}"


def build() -> None:
    """Compiles both, unless they are there and as new as their sources. Raises RuntimeError."""
    with _alone():
        stamp, current = LIBRARIES / "stamp", _sources()
        if not stamp.exists() or stamp.read_text() != current:
            shutil.rmtree(LIBRARIES, ignore_errors=True)
            _compile()
            stamp.write_text(current)
    check(core())
    check(control())


def check(library: Path) -> None:
    """Raises RuntimeError for a library that was built without one of the sanitizers."""
    text = library.read_bytes()
    missing = [name.decode() for name in NEEDED if name not in text]
    if missing:
        raise RuntimeError(f"{library} was built without {', '.join(missing)}")


@contextmanager
def _alone() -> Iterator[None]:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sources() -> str:
    """A digest of all that goes into the libraries."""
    core = sorted((ROOT / "fastjmix").glob("_core*/*.pxi"))
    files = [*core, ROOT / "fastjmix/_core.pyx", ROOT / "setup.py", Path(__file__)]
    files.append(Path(__file__).parent / "control.pyx")
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def _compile() -> None:
    clang = shutil.which("clang")
    if clang is None:
        raise RuntimeError("fuzzing needs clang: apt-get install clang")
    environment = {**os.environ, "CC": clang, "FASTJMIX_SANITIZE": SANITIZE, "CFLAGS": ""}
    environment["LDSHARED"] = f"{clang} -shared"
    done = subprocess.run(
        [
            sys.executable, "setup.py", "-q", "build_ext",
            "--build-lib", LIBRARIES, "--build-temp", LIBRARIES / "objects",
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_SECS,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"the sanitized core does not compile:\n{done.stdout}{done.stderr}")
