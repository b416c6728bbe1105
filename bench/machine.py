"""This machine and its processes: what a report names, and what /proc says of memory and time."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Final

from fastjmix import __version__

SAMPLE_SECS: Final = 0.05
PACKAGES: Final = (
    "pydicom",
    "pynetdicom",
    "aiohttp",
    "isal",
    "blake3",
    "uvloop",
    "pytest-benchmark",
)


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def _field(path: str, key: str) -> str:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return "unknown"


def facts(where: Path) -> dict[str, Any]:
    """Machine, kernel, file system of `where`, and versions of all that takes part."""
    from tests.support.acceptors import dcmtk

    root = Path(__file__).resolve().parents[1]
    versions = {"fastjmix": __version__, "python": platform.python_version()}
    with contextlib.suppress(AssertionError, IndexError):
        versions["dcmtk"] = _output(dcmtk("storescp"), "--version").splitlines()[0].strip("$: ")
    if orthanc := shutil.which("Orthanc"):
        versions["orthanc"] = _output(orthanc, "--version").partition("\n")[0]
    versions |= {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {"openssl": ssl.OPENSSL_VERSION, "gcc": _output("gcc", "-dumpfullversion")}
    return {
        "cpu": _field("/proc/cpuinfo", "model name"),
        "processors": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "file_system": _output("stat", "-f", "-c", "%T", str(where)),
        "commit": _output("git", "-C", str(root), "describe", "--always", "--dirty"),
        "program": program(),
        "command": " ".join(["python -m bench.run", *sys.argv[1:]]),
        "versions": versions,
    }


def program() -> str:
    """A digest of fastjmix's sources, committed or not: equal for what is the same program."""
    digest = hashlib.sha256()
    sources = Path(__file__).resolve().parents[1] / "fastjmix"
    for path in sorted(sources.rglob("*.p[yx]*")):
        if path.suffix in (".py", ".pyx", ".pxi"):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def family(pid: int) -> list[int]:
    """A process and all its descendants that are alive."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu(pid: int) -> tuple[int, float]:
    """(clock ticks, milliseconds by the scheduler's own count) used by a family so far."""
    ticks, nanoseconds = 0, 0
    for one in family(pid):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
            for task in Path(f"/proc/{one}/task").iterdir():
                nanoseconds += int((task / "schedstat").read_text().split()[0])
    return ticks, nanoseconds / 1e6


def _lanes(pid: int) -> int:
    """Bytes in the memory files of the lanes, which every process of the family has open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith("/memfd:fastjmix-lanes"):
                return link.stat().st_blocks * 512
    return 0


def memory(pid: int) -> dict[str, int]:
    """Bytes of a family: Rss and Pss summed over its processes; of Pss the part that is shared
    memory; and `lanes`, what their memory files hold, whether it was touched or not.

    Rss counts what is shared once a process.
    """
    total = {"Rss": 0, "Pss": 0, "Pss_Shmem": 0, "lanes": _lanes(pid)}
    for one in family(pid):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                key, _, value = line.partition(":")
                if key in total:
                    total[key] += int(value.split()[0]) * 1024
    return total


class Peak:
    """The highest memory of a family while the block runs; each key has its own peak.

    `own` is the peak of Pss without the lanes at the same instant.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = {"Rss": 0, "Pss": 0, "Pss_Shmem": 0, "lanes": 0, "own": 0}

    def _look(self) -> None:
        now = memory(self._pid)
        now["own"] = now["Pss"] - now["Pss_Shmem"]
        self.bytes = {key: max(value, now[key]) for key, value in self.bytes.items()}

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECS):
            self._look()

    def __enter__(self) -> Peak:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
