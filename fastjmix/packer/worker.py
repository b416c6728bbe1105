"""Runs work that takes long on a thread beside the loop of a process.

Wanted: an envelope is encrypted while the loop goes on with other instances.
Guaranteed: one piece of work runs at a time. Pieces run in the order in which they were submitted,
but a retry runs behind all that has not failed. The loop runs the follow-up of each piece on its
own thread, when it calls `settle`. An exception of the work is raised where the follow-up asks for
the result. Where no thread can be started, LimitReached is raised there. The process may end
while work is under way.
Still wrong: there is one thread. Work behind a large envelope waits for all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, PriorityQueue, SimpleQueue
from typing import Any, TypeVar

from fastjmix.errors import LimitReached

Result = TypeVar("Result")
Work = Callable[[], Result]
Then = Callable[[Work[Result]], object]
"""The follow-up. Its argument is a function that returns the work's result, or raises what the
work raised."""


def _only_raise(result: Work[object]) -> None:
    """Follows up work that returns nothing: raises what it raised."""
    result()


class Worker:
    """One thread, started with the first piece of work.

    `wake` wakes the loop, and is called from any thread.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._submitted: PriorityQueue[tuple[bool, int, Work[Any], Then[Any]]] = PriorityQueue()
        self._count = 0
        self._finished: SimpleQueue[tuple[Future[Any], Then[Any]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._unsettled = 0

    @property
    def busy(self) -> bool:
        """True while there is work whose follow-up has not run."""
        return self._unsettled > 0

    def submit(
        self, work: Work[Result], then: Then[Result] = _only_raise, *, retry: bool = False
    ) -> None:
        """Runs `work` on the thread; `settle` runs `then`. `retry`: the work has failed before."""
        self._unsettled += 1
        self._count += 1
        if self._thread is None and not self._start():
            failed: Future[Any] = Future()
            failed.set_exception(LimitReached("no thread can be started"))
            self._finish(failed, then)
            return
        self._submitted.put((retry, self._count, work, then))

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="worker", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return False
        self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            _, _, work, then = self._submitted.get()
            future: Future[Any] = Future()
            try:
                future.set_result(work())
            except BaseException as problem:
                future.set_exception(problem)
            try:
                self._finish(future, then)
            finally:
                self._submitted.task_done()

    def _finish(self, future: Future[Any], then: Then[Any]) -> None:
        self._finished.put((future, then))
        self._wake()

    def settle(self) -> None:
        """Runs the follow-ups of the work that has finished, and waits for none."""
        while self._unsettled:
            try:
                future, then = self._finished.get_nowait()
            except Empty:
                return
            self._settle(future, then)

    def drain(self) -> None:
        """Waits for all work, and for work that follow-ups submit; runs all follow-ups.

        The thread has called `wake` for the last time: what that uses may be closed now.
        """
        while self._unsettled:
            self._settle(*self._finished.get())
        self._submitted.join()

    def _settle(self, future: Future[Any], then: Then[Any]) -> None:
        self._unsettled -= 1
        then(future.result)
