"""Calls a file system that may never answer: a share whose server is gone.

Guaranteed: the caller waits for its time limit and no longer. A call that goes on after that holds
a thread of its own, and never one of those that the spool's steps run in. While one does, no other
call begins: so there are no more of these threads than there were calls at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


class Stuck(Exception):
    """A call did not return in time, or an earlier one has not returned yet."""


class Steps:
    """The calls to one file system, each with `limit_secs`."""

    def __init__(self, limit_secs: float) -> None:
        self._limit_secs = limit_secs
        self._stuck: set[asyncio.Future[Any]] = set()

    async def call(self, function: Callable[[], _T]) -> _T:
        """Returns what the function returns, or raises what it raises. Raises Stuck."""
        if self._stuck:
            raise Stuck("an earlier call has not come back")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def settle(result: _T | None, problem: BaseException | None) -> None:
            if future.cancelled():
                return
            if problem is not None:
                future.set_exception(problem)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # it is what came back

        def run() -> None:
            result, problem = None, None
            try:
                result = function()
            except BaseException as raised:  # handed to the caller
                problem = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settle, result, problem)

        threading.Thread(target=run, daemon=True).start()
        done, _ = await asyncio.wait([future], timeout=self._limit_secs)
        if not done:
            self._stuck.add(future)
            future.add_done_callback(self._came_back)
            raise Stuck(f"no answer in {self._limit_secs:g} s")
        return future.result()

    def _came_back(self, future: asyncio.Future[Any]) -> None:
        self._stuck.discard(future)
        if not future.cancelled():
            future.exception()  # seen: it came too late for anybody
