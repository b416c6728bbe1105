"""Calls functions that may never return: a dead network mount, a resolver that does not answer.

Guaranteed: the caller waits no longer than it wants to. The thread that still waits ends with the
process, and keeps it from ending no longer than the kernel keeps the system call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def start(function: Callable[[], _T]) -> Future[_T]:
    """Calls a function in a thread of its own. Returns its result to be."""
    future: Future[_T] = Future()
    future.set_running_or_notify_cancel()  # so that one who waits no longer does not cancel it

    def call() -> None:
        try:
            result = function()
        except BaseException as problem:  # the future raises it where it is asked for
            future.set_exception(problem)
        else:
            future.set_result(result)

    threading.Thread(target=call, daemon=True).start()
    return future
