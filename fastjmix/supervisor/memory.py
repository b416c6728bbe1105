"""Decides how much memory fastjmix may use, and how many associations at once fit in it.

Wanted: a container or a service with a memory limit serves as many modalities as it can, and the
kernel kills none of its processes.
Guaranteed: the limit is the least of all limits that apply to this process at the start: those of
its control group and of that group's ancestors (version 2: memory.max and memory.high; version 1:
memory.limit_in_bytes), and the machine's memory. The processes, the kernel and the page cache get
their part of it first; there are as many lanes as fit in the rest. Where that is fewer than
FEWEST_LANES, lanes are smaller than lane_bytes; where it is none, fastjmix does not start. More
associations than lanes can be numbered (_core.LANES_MAX) are a fault of the configuration.
Still wrong: a limit that is changed counts from the next start on. The memory that other programs
use within the same limit is not known.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastjmix.config import Config
from fastjmix.config.tree import UPLOADS_AT_ONCE
from fastjmix.errors import PlatformError
from fastjmix.log import Logger

MIB: Final = 1 << 20

SUPERVISOR_BYTES: Final = 60 * MIB
"""Bytes of the interpreter and all imported modules: measured 56 MB, shared with the children."""

CHILD_BYTES: Final = 12 * MIB
"""Bytes that a child does not share with the supervisor: measured 9 MB when it is idle, 10 under
load."""

ASSOCIATION_BYTES: Final = MIB // 2
"""Bytes of an association besides its lane: the kernel's buffers of its socket, its control block,
the records in receiver and packer. Measured: 0.4 MB, with 64 of them."""

BUCKET_LIBRARY_BYTES: Final = 16 * MIB
BUCKET_DELIVERY_BYTES: Final = 10 * MIB
"""Bytes of the library for buckets in the uploader, and of each delivery to one (its parts).
Measured: 7 MB a delivery, with four of them."""

CACHE_BYTES: Final = 16 * MIB
CACHE_SHARE: Final = 8
"""CACHE_BYTES are left for the page cache, or the limit divided by CACHE_SHARE, if that is more.
Written bytes wait there for the disk. With too little of it the kernel makes writers wait; with
none it kills. It holds programs and libraries, too: with less than this they are read from the disk
again and again."""

FEWEST_LANES: Final = 4
"""Lanes are made smaller where there would be fewer than this: a department's modalities send in
turns, but not one by one."""

LANE_BYTES_MIN: Final = MIB
"""Lanes are not made smaller than this; lane_bytes may not be less either."""

LANE_PDUS: Final = 4
"""A lane holds at least so many PDUs of max_pdu."""

ADDRESS_BYTES: Final = 192 * MIB
"""Bytes of each process's address space (RLIMIT_AS) besides the lanes, all of which it holds:
measured 75 MB, and each thread reserves some more."""

PAGE: Final = 4096

_HINT: Final = "raise the limit, or lower lane_bytes"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in bytes, and its source. With `each` it limits the address space of every process,
    and not the memory of all.
    """

    size: int
    source: str
    each: bool = False

    def __str__(self) -> str:
        return f"{_mib(self.size)} ({self.source})"

    def left_for_lanes(self, config: Config) -> int:
        """Returns the bytes that the processes and the kernel leave for lanes; a negative number
        when they do not fit themselves.
        """
        if self.each:
            return self.size - ADDRESS_BYTES
        return self.size - _processes_bytes(config) - max(CACHE_BYTES, self.size // CACHE_SHARE)

    def needed_for_lanes(self, config: Config, size: int) -> int:
        """Returns how high the limit must be for `size` bytes of lanes."""
        if self.each:
            return size + ADDRESS_BYTES
        held = size + _processes_bytes(config)
        return max(held + CACHE_BYTES, -(-held * CACHE_SHARE // (CACHE_SHARE - 1)))


@dataclass(frozen=True, slots=True)
class Plan:
    """The lanes that there will be, and (`wanted`) those that the configuration asks for."""

    lanes: int
    lane_bytes: int
    wanted: int
    wanted_bytes: int
    limit: Limit

    @property
    def is_whole(self) -> bool:
        """True when there is memory for everything that the configuration allows."""
        return (self.lanes, self.lane_bytes) == (self.wanted, self.wanted_bytes)

    def __str__(self) -> str:
        text = f"memory limit {self.limit}: {self.lanes} of {self.wanted} associations at once"
        if self.lane_bytes != self.wanted_bytes:
            text += f", with lanes of {_mib(self.lane_bytes)} instead of {_mib(self.wanted_bytes)}"
        return text if self.is_whole else f"{text}; {_HINT}"

    def announce(self, log: Logger) -> None:
        """Logs one line: a warning, if the plan is less than the configuration allows."""
        write = log.info if self.is_whole else log.warning
        write(
            "memory_limit",
            limit=_mib(self.limit.size),
            source=self.limit.source,
            associations=self.lanes,
            of=self.wanted,
            lane_bytes=self.lane_bytes,
            hint=None if self.is_whole else _HINT,
        )


def plan(config: Config, limits: Iterable[Limit] | None = None) -> Plan:
    """Returns the lanes for this configuration within these limits; None stands for this process's
    own limits.

    Raises PlatformError when there is memory for none.
    """
    wanted = max(1, sum(d.max_associations for d in config.dicom))
    pdus = LANE_PDUS * max((d.max_pdu for d in config.dicom), default=0)
    wanted_bytes = _pages(max(config.runtime.lane_bytes, pdus))
    least_bytes = _pages(max(LANE_BYTES_MIN, pdus))
    limit = min(
        found_limits() if limits is None else limits, key=lambda one: one.left_for_lanes(config)
    )
    left = limit.left_for_lanes(config)
    fewest = min(wanted, FEWEST_LANES)
    size = wanted_bytes
    if left // (size + ASSOCIATION_BYTES) < fewest:
        share = (left // fewest - ASSOCIATION_BYTES) // PAGE * PAGE
        size = min(max(share, least_bytes), wanted_bytes)
    lanes = min(left // (size + ASSOCIATION_BYTES), wanted)
    if lanes < 1:
        needed = limit.needed_for_lanes(config, least_bytes + ASSOCIATION_BYTES)
        raise PlatformError(
            f"memory limit {limit}: too little for one association; with this configuration"
            f" {_mib(needed)} or more are needed",
            "Raise the limit, or run fewer receivers and packers.",
        )
    return Plan(lanes, size, wanted, wanted_bytes, limit)


def _processes_bytes(config: Config) -> int:
    """Returns the bytes of all processes, without lanes."""
    runtime = config.runtime
    children = runtime.receivers + runtime.packers + 3  # the uploader, the api, the ledger
    return SUPERVISOR_BYTES + children * CHILD_BYTES + _buckets_bytes(config)


def _buckets_bytes(config: Config) -> int:
    """Returns the bytes of deliveries to buckets; 0 where there is none."""
    upstreams = {one for listener in config.listeners for one in listener.every_upstream}
    buckets = [one for one in upstreams if one.kind == "s3"]
    if not buckets:
        return 0
    deliveries = sum(one.allowance.max_concurrent or UPLOADS_AT_ONCE for one in buckets)
    return BUCKET_LIBRARY_BYTES + deliveries * BUCKET_DELIVERY_BYTES


def _pages(size: int) -> int:
    return (size + PAGE - 1) // PAGE * PAGE


def _mib(size: int) -> str:
    """Returns a whole number where it is one; else one with one digit, rounded up."""
    tenths = -(-size * 10 // MIB)
    return f"{tenths // 10} MiB" if tenths % 10 == 0 else f"{tenths / 10:.1f} MiB"


# -- the limits of this process --------------------------------------------------------------------


def found_limits(proc: Path = Path("/proc/self")) -> list[Limit]:
    """Returns every limit of this process; the machine's memory is always one of them."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [Limit(machine, "of this machine"), *_groups(proc)]
    with contextlib.suppress(OSError):  # a sandbox may forbid the call
        space, _ = resource.getrlimit(resource.RLIMIT_AS)
        if space != resource.RLIM_INFINITY:
            found.append(Limit(space, "RLIMIT_AS", each=True))
    return found


def _groups(proc: Path) -> Iterator[Limit]:
    """Yields the limits of the control group that this process is in, and of those above it."""
    try:
        mounts = [_Mount.read(line) for line in (proc / "mountinfo").read_text().splitlines()]
        groups = (proc / "cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return  # no /proc: the machine's memory is all that can be known
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue  # version 1, and a hierarchy of something else
        names = _FILES_V1 if controllers else _FILES_V2
        for mount in mounts:
            if mount is not None and mount.holds(names):
                yield from _upward(mount.directory(path), mount.point, names)


_FILES_V2: Final = ("memory.max", "memory.high")
"""cgroup v2: above memory.high every allocation is throttled, until nothing moves."""

_FILES_V1: Final = ("memory.limit_in_bytes",)


def _upward(group: Path, top: Path, names: tuple[str, ...]) -> Iterator[Limit]:
    while True:
        for name in names:
            with contextlib.suppress(OSError, ValueError):  # "max": none
                yield Limit(int((group / name).read_text()), f"{name} of {group}")
        if group == top or top not in group.parents:
            return
        group = group.parent


@dataclass(frozen=True, slots=True)
class _Mount:
    """A line of /proc/self/mountinfo (proc(5)): a file system of control groups."""

    root: str
    point: Path
    kind: str
    options: tuple[str, ...]

    @classmethod
    def read(cls, line: str) -> _Mount | None:
        """Returns the mount of a line; None for another kind of file system."""
        first, _, second = line.partition(" - ")
        kind, _, options = second.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            return None
        root, point = first.split(" ")[3:5]
        return cls(root, Path(_unescaped(point)), kind, tuple(options.split(",")))

    def holds(self, names: tuple[str, ...]) -> bool:
        """Returns True when groups with files of these names are below this mount."""
        if names is _FILES_V2:
            return self.kind == "cgroup2"
        return self.kind == "cgroup" and "memory" in self.options

    def directory(self, path: str) -> Path:
        """Returns the directory of a group, by its path in /proc/self/cgroup. For a group outside
        the mount (a container sees its own group only) it is the directory where the mount begins.
        """
        root = self.root.rstrip("/")
        inside = path[len(root) :] if path == root or path.startswith(f"{root}/") else ""
        steps = [step for step in inside.split("/") if step]
        return self.point if ".." in steps else self.point.joinpath(*steps)


def _unescaped(text: str) -> str:
    """Returns the path with its octal escapes (blanks and the like) undone."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
