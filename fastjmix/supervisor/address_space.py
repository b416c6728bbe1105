"""Keeps the address space of each process small where it is limited (RLIMIT_AS).

glibc gives each thread an arena of its own, which reserves 64 MiB of addresses, used or not. Under
a limit of 320 MiB a process with three threads had none left for a fourth: libuv aborts then.
"""

from __future__ import annotations

import ctypes
import resource
import threading
from typing import Final

M_ARENA_MAX: Final = -8
"""malloc.h: how many arenas a process has."""

STACK_BYTES: Final = 1 << 20
"""Stack of a thread, an eighth of the usual: none of ours calls deeply."""


def save_address_space() -> None:
    """Has all threads of this process, and of those that are forked from it, share one arena.

    Does nothing where the address space is not limited, or the C library is not glibc.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    threading.stack_size(STACK_BYTES)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
