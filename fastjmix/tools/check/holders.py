"""Finds the process that listens on a port, by what the kernel lists (proc(5)).

Still wrong: the descriptors of other users' processes are shown to root only; then the user is all
that can be named.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from fastjmix.errors import printable

LISTEN: Final = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


class Listening(NamedTuple):
    """A listening socket: its inode and its owner."""

    inode: str
    user: int


def listening(port: int) -> list[Listening]:
    """Returns the sockets that listen on a port, whichever the address."""
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path("/proc/net", table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.append(Listening(fields[9], int(fields[7])))
    return found


def has(pid: int, sockets: list[Listening]) -> bool:
    """Returns whether a process has one of these sockets; where its descriptors cannot be seen,
    whether its user has."""
    try:
        return bool(_inodes(pid) & {one.inode for one in sockets})
    except PermissionError:
        pass
    except OSError:
        return False
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid)).stat().st_uid in {one.user for one in sockets}
    return False


def named(sockets: list[Listening]) -> str:
    """Returns the process that has one of these sockets, or its user, in words; "" for none."""
    wanted = {one.inode for one in sockets}
    for pid in _processes():
        with contextlib.suppress(OSError):
            if _inodes(pid) & wanted:
                command = Path("/proc", str(pid), "comm").read_text("utf-8", "replace").strip()
                return f"process {pid} ({printable(command)})"
    return f"a process of user {sockets[0].user}" if sockets else ""


def _processes() -> Iterator[int]:
    """Yields the processes, the oldest first: of a fork the parent is named."""
    yield from sorted(int(one.name) for one in os.scandir("/proc") if one.name.isdecimal())


def _inodes(pid: int) -> set[str]:
    """Returns the inodes of a process's sockets. Raises OSError."""
    found = set()
    with os.scandir(f"/proc/{pid}/fd") as descriptors:
        for one in descriptors:
            with contextlib.suppress(FileNotFoundError):
                target = str(Path(one.path).readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
