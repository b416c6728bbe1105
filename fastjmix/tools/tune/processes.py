"""Processes that send and receive for `tune`: forked, and ended with the process that forks them.

Guaranteed: a child inherits what it is given without a copy, ignores Ctrl-C (the parent ends it),
and dies with its parent.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

from fastjmix.tools.tune.clock import Clock

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): a signal for this process when its parent ends."""


def fork(work: Callable[..., None], *arguments: Any) -> tuple[Connection, BaseProcess]:
    """Forks a child that runs `work(pipe, *arguments)`. Returns the other end of the pipe, and the
    child.

    Call it before there are threads.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_child, args=(os.getpid(), work, theirs, *arguments), daemon=True
    )
    process.start()
    theirs.close()
    return ours, process


def _child(parent: int, work: Callable[..., None], *arguments: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent:  # it may have ended before prctl
        work(*arguments)


def end(processes: list[BaseProcess]) -> None:
    """Kills the children, and waits until they have ended."""
    for process in processes:
        process.kill()
        process.join()


def receive(pipe: Connection, clock: Clock) -> object:
    """Returns what a child sends, or a message when it ends instead. Raises OutOfTime."""
    try:
        while not pipe.poll(max(0.0, clock.left())):
            clock.require("instances were still being sent")
        return pipe.recv()
    except EOFError:
        return "a sending process ended without a word"
