"""packer/worker.py: order, where results and exceptions come out, and what `finish` waits for."""

from __future__ import annotations

import threading

import pytest

from fastjmix.packer.worker import Aside, Work


def test_the_loop_gets_results_in_order_when_it_asks() -> None:
    rung, gate = threading.Semaphore(0), threading.Event()
    aside = Aside(rung.release)
    where: list[tuple[int, threading.Thread]] = []

    def then(work: Work) -> None:
        where.append((work(), threading.current_thread()))

    aside.begin(lambda: gate.wait(20) and 1, then)
    aside.begin(lambda: 2, then)
    aside.settle()
    assert aside.busy
    assert not where
    gate.set()
    for _ in range(2):
        assert rung.acquire(timeout=20)
    aside.settle()
    assert where == [(1, threading.current_thread()), (2, threading.current_thread())]
    assert not aside.busy


def test_an_exception_is_raised_where_the_result_is_asked_for() -> None:
    aside = Aside(lambda: None)
    aside.begin(lambda: 1 // 0, lambda work: work())
    with pytest.raises(ZeroDivisionError):
        aside.finish()
    aside.begin(lambda: 1, lambda work: work())
    aside.finish()


def test_finish_waits_for_what_follows() -> None:
    aside = Aside(lambda: None)
    found: list[int] = []
    aside.begin(lambda: 1, lambda _: aside.begin(lambda: 2, lambda work: found.append(work())))
    aside.finish()
    assert found == [2]


def until_settled(aside: Aside, rung: threading.Semaphore) -> None:
    """Settles as a loop does, when it is woken."""
    while aside.busy:
        assert rung.acquire(timeout=20)
        aside.settle()
