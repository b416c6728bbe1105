"""packer/worker.py: the order of work, its results and exceptions, and the end of `drain`."""

from __future__ import annotations

import threading

import pytest

from fastjmix.packer.worker import Work, Worker


def test_the_loop_gets_results_in_order_when_it_asks() -> None:
    woken, gate = threading.Semaphore(0), threading.Event()
    worker = Worker(woken.release)
    where: list[tuple[int, threading.Thread]] = []

    def then(work: Work[int]) -> None:
        where.append((work(), threading.current_thread()))

    worker.submit(lambda: gate.wait(20) and 1, then)
    worker.submit(lambda: 2, then)
    worker.settle()
    assert worker.busy
    assert not where
    gate.set()
    for _ in range(2):
        assert woken.acquire(timeout=20)
    worker.settle()
    assert where == [(1, threading.current_thread()), (2, threading.current_thread())]
    assert not worker.busy


def test_an_exception_is_raised_where_the_result_is_asked_for() -> None:
    worker = Worker(lambda: None)
    worker.submit(lambda: 1 // 0, lambda work: work())
    with pytest.raises(ZeroDivisionError):
        worker.drain()
    worker.submit(lambda: 1, lambda work: work())
    worker.drain()


def test_drain_waits_for_what_follows() -> None:
    worker = Worker(lambda: None)
    found: list[int] = []
    worker.submit(lambda: 1, lambda _: worker.submit(lambda: 2, lambda work: found.append(work())))
    worker.drain()
    assert found == [2]


def test_drain_waits_for_the_last_wake() -> None:
    """The descriptor that it writes to may be closed after that."""
    gate, woken = threading.Event(), threading.Event()

    def wake() -> None:
        assert gate.wait(20)
        woken.set()

    worker = Worker(wake)
    worker.submit(lambda: 1)
    threading.Timer(0.05, gate.set).start()
    worker.drain()
    assert woken.is_set()


def until_settled(worker: Worker, woken: threading.Semaphore) -> None:
    """Settles as a loop does, when it is woken."""
    while worker.busy:
        assert woken.acquire(timeout=20)
        worker.settle()
