"""Runs work that takes long, on a thread beside the loop of a process.

Wanted: an envelope is encrypted while the loop goes on answering others.
Guaranteed: one piece of work at a time, in the order in which they were begun, but for work that
has failed before: that goes behind all that has not. The loop does the work that is to follow, in
its own thread, when it calls `settle`. An exception of the work is raised there, where its result
is asked for; so is ENOMEM, where no thread can be had. The process may end while something is under
way.
Still wrong: one thread. Work behind a large envelope waits for all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, PriorityQueue, SimpleQueue
from typing import Any

from fastjmix.errors import LimitReached

Work = Callable[[], Any]
Then = Callable[[Work], object]
"""Gets a function that returns what the work returned, or raises what it raised."""


class Aside:
    """The thread, started with the first piece of work. `ring` wakes the loop, from any thread."""

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._todo: PriorityQueue[tuple[bool, int, Work, Then]] = PriorityQueue()
        self._begun = 0
        self._done: SimpleQueue[tuple[Future[Any], Then]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = 0

    @property
    def busy(self) -> bool:
        """Something was begun, and what follows it was not done yet."""
        return self._pending > 0

    def begin(self, work: Work, then: Then, *, again: bool = False) -> None:
        """Does `work` on the thread; `settle` calls `then`. `again`: it has failed before."""
        self._pending += 1
        self._begun += 1
        if self._thread is None and not self._start():
            failed: Future[Any] = Future()
            failed.set_exception(LimitReached("no thread can be started"))
            self._finished(failed, then)
            return
        self._todo.put((again, self._begun, work, then))

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, name="aside", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):
            return False
        self._thread = thread
        return True

    def _finished(self, future: Future[Any], then: Then) -> None:
        self._done.put((future, then))
        self._ring()

    def do(self, work: Work) -> None:
        """Does the same for work that nothing follows."""
        self.begin(work, lambda done: done())

    def settle(self) -> None:
        """Does what is to be done after the work that is finished; waits for none."""
        while self._pending:
            try:
                future, then = self._done.get_nowait()
            except Empty:
                return
            self._settle(future, then)

    def finish(self) -> None:
        """Waits for all work, that which follows included, and settles it."""
        while self._pending:
            self._settle(*self._done.get())

    def _settle(self, future: Future[Any], then: Then) -> None:
        self._pending -= 1
        then(future.result)

    def _run(self) -> None:
        while True:
            _, _, work, then = self._todo.get()
            future: Future[Any] = Future()
            try:
                future.set_result(work())
            except BaseException as problem:
                future.set_exception(problem)
            self._finished(future, then)
