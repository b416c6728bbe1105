"""packer/group_commit.py: append, fdatasync, then statuses, in this order."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from fastjmix.ipc.metrics import MetricsPage
from fastjmix.packer.group_commit import STORAGE_FAILED, GroupCommit


class Draft:
    """A draft whose syncs are written to `events`; `problem` is raised by them."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.id = name
        self.suspect = False
        self.end = 100
        self.problem: OSError | None = None
        self._events = events

    def commit(self) -> None:
        self._events.append(f"sync {self.id}")
        if self.problem is not None:
            raise self.problem


class Envelope:
    """An open envelope with 100 bytes of members."""

    def __init__(self, name: str, events: list[str]) -> None:
        self.draft = Draft(name, events)
        self.end = 100


class Surroundings:
    """A group commit whose neighbours write what they are asked for to `events`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        neighbours: Any = self
        self.metrics = MetricsPage(1).row(0)
        syncs = self.metrics.histogram("commit_seconds")
        self.commit = GroupCommit(neighbours, neighbours, neighbours, syncs)

    def envelope(self, name: str) -> Any:
        return Envelope(name, self.events)

    def success(self, lane: int) -> None:
        self.events.append(f"success {lane}")

    def out_of_resources(self, lane: int, comment: bytes) -> None:
        assert comment == STORAGE_FAILED
        self.events.append(f"refused {lane}")

    def count_failure(self, problem: OSError) -> None:
        self.events.append(f"failure {problem.errno}")

    def leave_to_recovery(self, envelope: Envelope) -> None:
        self.events.append(f"to recovery {envelope.draft.id}")


@pytest.fixture
def around() -> Surroundings:
    return Surroundings()


def test_one_sync_an_envelope_comes_before_all_statuses(around: Surroundings) -> None:
    a, b = around.envelope("a"), around.envelope("b")
    for lane, envelope in enumerate((a, b, a)):
        around.commit.add(lane, envelope)
    assert around.commit.waiting
    assert around.commit.commit() == set()
    assert around.events == ["sync a", "sync b", "success 0", "success 1", "success 2"]
    assert not around.commit.waiting
    assert sum(around.metrics.observed("commit_seconds").counts) == 2


def test_a_failed_sync_is_an_answer_to_its_instances_only(around: Surroundings) -> None:
    a, b = around.envelope("a"), around.envelope("b")
    a.draft.problem = OSError(errno.EIO, "Input/output error")
    for lane, envelope in enumerate((a, b, a)):
        around.commit.add(lane, envelope)
    assert around.commit.commit() == {a}
    assert around.events == [
        "sync a", f"failure {errno.EIO}", "sync b",
        "refused 0", "success 1", "refused 2", "to recovery a",
    ]  # fmt: skip


def test_no_descriptors_are_no_failure_of_the_storage(around: Surroundings) -> None:
    a = around.envelope("a")
    a.draft.problem = OSError(errno.EMFILE, "Too many open files")
    around.commit.add(0, a)
    around.commit.commit()
    assert around.events == ["sync a", "refused 0", "to recovery a"]


@pytest.mark.parametrize("problem", [None, OSError(errno.EIO, "Input/output error")])
def test_an_envelope_is_committed_before_it_is_sealed_early(
    around: Surroundings, problem: OSError | None
) -> None:
    """The caller learns whether it may still be written."""
    a = around.envelope("a")
    assert around.commit.commit_envelope(a)
    assert around.events == []
    a.draft.problem = problem
    around.commit.add(0, a)
    assert around.commit.commit_envelope(a) == (problem is None)
    assert around.events[0] == "sync a"


def test_the_page_cache_has_an_instance_before_its_status(around: Surroundings) -> None:
    a = around.envelope("a")
    around.commit.commit_at_once(7, a)
    assert around.events == ["sync a", "success 7"]
    a.draft.problem = OSError(errno.ESTALE, "the envelope is not in the storage directory any more")
    with pytest.raises(OSError, match="not in the storage directory"):
        around.commit.commit_at_once(8, a)
    assert around.events[2:] == ["sync a"]


def test_an_append_that_left_no_trace_costs_the_envelope_nothing(around: Surroundings) -> None:
    a = around.envelope("a")
    around.commit.add(0, a)
    around.commit.append_failed(a, OSError(errno.ENOSPC, "No space left on device"))
    assert around.events == []
    assert around.commit.waiting


@pytest.mark.parametrize("gone", [False, True])
def test_a_file_that_is_not_to_be_written_again_is_not_synced(
    around: Surroundings, gone: bool
) -> None:
    a, b = around.envelope("a"), around.envelope("b")
    a.draft.suspect = not gone
    around.commit.add(0, a)
    around.commit.add(1, b)
    around.commit.append_failed(a, OSError(errno.ESTALE if gone else errno.EIO, "failed"))
    assert around.events == ["refused 0", "to recovery a"]
    around.commit.commit()
    assert around.events[2:] == ["sync b", "success 1"]


def test_a_file_that_memory_does_not_agree_with_is_committed_and_left(
    around: Surroundings,
) -> None:
    a = around.envelope("a")
    a.end = 50
    around.commit.add(0, a)
    around.commit.append_failed(a, RuntimeError("a fault of ours"))
    assert around.events == ["sync a", "success 0", "to recovery a"]
