"""packer/recovery_queue.py: attempts and pauses; no failure of one draft ends the loop."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from fastjmix.ipc.channels import Channels
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.packer.recovery_queue import FAULTS_MAX, RETRY_MAX_SECS, Recovery, RecoveryQueue
from fastjmix.packer.worker import Worker
from fastjmix.spool import Leftover, Spool
from tests.packer.test_worker import until_settled
from tests.support import strange
from tests.support.reception import Reception


class Site:
    """A spool with a draft of odd instances, and the recovery queue of a packer that finds it."""

    def __init__(self, root: Path) -> None:
        reception = Reception(root / "reception")
        for uid, data in strange.instances("1.2.826.20", 3).items():
            assert reception.store(data, uid) == 0
        self.spool: Spool = reception.as_a_kill_leaves_it(root / "left")
        reception.close()
        self.outbox_event = os.eventfd(0, os.EFD_NONBLOCK)
        self.woken = threading.Semaphore(0)
        self.worker = Worker(self.woken.release)
        self.failures: list[OSError] = []
        self.metrics = MetricsPage(1).row(0)
        channels = Channels(self.outbox_event, self.outbox_event, {}, self.metrics)
        self.queue = RecoveryQueue(
            self.spool, channels, "packer-0", self.worker, self.failures.append
        )
        (self.leftover,) = self.spool.drafts.leftovers()

    def ends(self, recovery: Recovery, problem: BaseException) -> None:
        """Handles an attempt that ended with this problem."""

        def work() -> Any:
            raise problem

        self.queue._ended(recovery, work)

    def is_recovered(self) -> None:
        self.queue.submit(self.leftover)
        until_settled(self.worker, self.woken)
        assert len(list(self.spool.outbox.glob("*.zip"))) == 1
        assert not list(self.spool.building.iterdir())

    def close(self) -> None:
        self.spool.release()
        os.close(self.outbox_event)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path)
    yield one
    one.close()


@pytest.mark.fault("F85")
def test_a_draft_that_fails_for_days_is_tried_for_days(site: Site) -> None:
    """The pause has a value after any number of failures: 2,000 are more than a day."""
    recovery = Recovery(site.leftover)
    for _ in range(2000):
        site.ends(recovery, OSError(28, "No space left on device"))
        assert 0 < recovery.pause() <= RETRY_MAX_SECS
    assert recovery.pause() == RETRY_MAX_SECS
    assert len(site.failures) == 2000
    assert len(site.queue.due) == 2000
    assert site.leftover.archive.exists()
    site.is_recovered()


@pytest.mark.fault("F85")
def test_want_of_memory_is_no_verdict_on_a_draft(site: Site) -> None:
    recovery = Recovery(site.leftover)
    for _ in range(10 * FAULTS_MAX):
        site.ends(recovery, MemoryError())
    assert not list(site.spool.rejected.iterdir())
    assert {problem.errno for problem in site.failures} == {12}
    site.is_recovered()


@pytest.mark.fault("F85")
@pytest.mark.parametrize("problem", [RecursionError("deep"), KeyError("profile"), EOFError()])
def test_a_fault_of_ours_is_tried_once_more_and_then_kept(site: Site, problem: Exception) -> None:
    """Failures of the disk before it do not count."""
    recovery = Recovery(site.leftover)
    site.ends(recovery, OSError(5, "Input/output error"))
    for _ in range(FAULTS_MAX - 1):
        site.ends(recovery, problem)
    assert site.leftover.archive.exists()
    whole = site.leftover.archive.read_bytes()
    site.ends(recovery, problem)
    assert site.spool.path("rejected", site.leftover.id).read_bytes() == whole
    assert site.metrics.total("envelopes_rejected_total") == 1


@pytest.mark.fault("F85")
def test_what_cannot_even_be_kept_is_tried_again(site: Site) -> None:
    """rejected/ cannot be written: nothing is deleted, and the loop goes on."""
    recovery = Recovery(site.leftover, faults=FAULTS_MAX)
    site.spool.rejected.rmdir()
    site.spool.rejected.touch()
    site.ends(recovery, ValueError("a fault of ours"))
    assert site.leftover.archive.exists()
    assert len(site.queue.due) == 1
    site.spool.rejected.unlink()
    site.spool.rejected.mkdir()
    site.is_recovered()


@pytest.mark.fault("F85")
def test_no_thread_is_no_end_of_the_loop(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a cgroup allows no more processes."""

    def fails(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        site.queue.submit(site.leftover)
        site.worker.settle()
    assert [problem.errno for problem in site.failures] == [12]
    assert len(site.queue.due) == 1
    site.is_recovered()


@pytest.mark.fault("F85")
def test_drafts_that_failed_wait_behind_those_that_did_not(site: Site) -> None:
    """While the thread is busy, one that failed is due again, and two others are found."""
    order: list[str] = []
    gate = threading.Event()

    def doing(name: str) -> Callable[[], str]:
        def done() -> str:
            order.append(name)
            return name

        return done

    site.worker.submit(lambda: gate.wait(20), lambda work: work())
    site.worker.submit(doing("failed"), lambda work: work(), retry=True)
    site.worker.submit(doing("first"), lambda work: work())
    site.worker.submit(doing("failed too"), lambda work: work(), retry=True)
    site.worker.submit(doing("second"), lambda work: work())
    gate.set()
    site.worker.drain()
    assert order == ["first", "second", "failed", "failed too"]


@pytest.mark.fault("F85")
@pytest.mark.parametrize("replaces", ["", ".", "..", "../left", 7])
def test_a_draft_that_names_no_draft_is_kept(site: Site, replaces: object) -> None:
    """fastjmix writes no such recipe; the draft may hold what was acknowledged."""
    recipe = site.leftover.directory / "draft.json"
    result = orjson.loads(recipe.read_bytes())
    recipe.write_bytes(orjson.dumps({**result, "replaces": replaces}))
    held = site.leftover.archive.read_bytes()
    site.spool.release()
    site.spool.prepare()
    assert site.spool.drafts.leftovers() == []
    assert (site.spool.rejected / f"{site.leftover.id}.zip").read_bytes() == held


@pytest.mark.fault("F85")
@pytest.mark.parametrize(
    "changed",
    [
        {"published": {"sender": 1}},
        {"published": {"encryption": 1}},
        {"profile": "another version's"},
        {"digest": "another version's"},
        {"study": "{}"},
    ],
)
def test_a_recipe_that_is_none_of_ours_costs_its_draft(site: Site, changed: dict[str, Any]) -> None:
    """Sealed, or kept after two attempts; the loop goes on."""
    recipe = replace(site.leftover.recipe, **changed)
    recovery = Recovery(Leftover(site.leftover.id, site.leftover.directory, recipe))
    site.queue._backlog.add(recovery.leftover)
    for _ in range(FAULTS_MAX):
        site.queue._begin(recovery)
        until_settled(site.worker, site.woken)
    assert len([*site.spool.outbox.glob("*.zip"), *site.spool.rejected.glob("*.zip")]) == 1


@pytest.mark.fault("F85")
@pytest.mark.parametrize(
    "changed",
    [{"published": "x"}, {"published": [1]}, {"profile": 7}, {"digest": None}, {"packer": None}],
)
def test_a_draft_whose_recipe_has_bad_values_is_kept(site: Site, changed: dict[str, Any]) -> None:
    """The start keeps it in rejected/: no packer ever takes it up."""
    path = site.leftover.directory / "draft.json"
    path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), **changed}))
    held = site.leftover.archive.read_bytes()
    site.spool.release()
    site.spool.prepare()
    assert site.spool.drafts.leftovers() == []
    assert site.spool.path("rejected", site.leftover.id).read_bytes() == held


@pytest.mark.fault("F85")
def test_a_leftover_without_a_recipe_costs_itself(site: Site, tmp_path: Path) -> None:
    """Its recipe names no profile: two attempts, and it is kept."""
    recovery = Recovery(Leftover(site.leftover.id, site.leftover.directory))
    for _ in range(FAULTS_MAX):
        site.queue._begin(recovery)
        until_settled(site.worker, site.woken)
    assert list(site.spool.rejected.glob("*.zip"))
