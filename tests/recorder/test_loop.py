"""recorder/: the process between its pipe and its file, which fails and comes back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.config import LedgerSettings
from fastjmix.ipc.channels import BOARD, Channels
from fastjmix.ipc.events import Events, make_pipe
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.ipc.state_board import StateBoard
from fastjmix.ledger.database import LedgerUnavailable, path_in, write_lock
from fastjmix.recorder import chores, loop
from fastjmix.recorder.loop import Recorder
from fastjmix.spool.root import Root
from tests.support.adopting import Supervisor
from tests.support.apis import settings as configured
from tests.support.gateway import until
from tests.support.storages import Storage, association


class Running:
    """The process's loop on a thread, with a real pipe and a real file."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.metrics = MetricsPage(1).row(0)
        self.board = StateBoard(BOARD)
        self._reading, self._writing = make_pipe()
        self.events = Events(self._writing, self.metrics)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK)
        self._supervisor = Supervisor()
        inbox = self._supervisor.inbox
        channels = Channels(
            self._stop, -1, {}, self.metrics, self.events, self.board, configuration=inbox
        )
        self._recorder = Recorder(Root(storage.root), LedgerSettings(), channels, self._reading)
        self._thread = threading.Thread(target=self._recorder.serve)

    def adopt(self, settings: LedgerSettings) -> None:
        """Gives the process other settings, and waits until it has adopted them."""
        self._supervisor.configure(replace(configured(self.storage.root, (), 1), ledger=settings))

    def send(self, *events: dict[str, Any]) -> None:
        """Sends events, each by its kind."""
        for one in events:
            facts = {name: value for name, value in one.items() if name not in ("kind", "at")}
            self.events.send(one["kind"], **facts)

    def row(self) -> dict[str, Any]:
        return self.board.read("ledger")

    def wait_state(self, state: str) -> dict[str, Any]:
        until(lambda: self.row().get("state") == state, f"the ledger is {state}")
        return self.row()

    def wait_association(self, association_id: str) -> None:
        def known() -> bool:
            try:
                return self.storage.ledger.association(association_id) is not None
            except LedgerUnavailable:  # it is being made anew
                return False

        until(known, f"{association_id} is known")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.eventfd_write(self._stop, 1)
        self._thread.join(30)
        assert not self._thread.is_alive()
        self._supervisor.close()
        for descriptor in (self._reading, self._writing, self._stop):
            os.close(descriptor)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@contextmanager
def running(storage: Storage) -> Iterator[Running]:
    own = Running(storage)
    own.start()
    try:
        yield own
    finally:
        own.stop()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry comes after hundredths of a second here."""
    monkeypatch.setattr(loop, "RETRY_SECS", 0.02)
    monkeypatch.setattr(loop, "RETRY_MAX_SECS", 0.05)
    monkeypatch.setattr(loop, "GATHER_SECS", 0.01)


def test_events_become_rows_and_counters(storage: Storage) -> None:
    with running(storage) as own:
        own.send(association(1), association(2, statuses={"0000": 1, "A700": 2}))
        own.wait_association("run-2")
        until(lambda: own.row()["associations"], "they are counted")
        row = own.wait_state("ok")
    assert (row["why"], row["bytes"] > 4096) == ("", True)
    assert row["associations"] == [["CT1", "released", 2]]
    assert row["instances"] == [["CT1", "0000", 4], ["CT1", "A700", 2]]


def test_the_start_reads_what_is_on_the_disk(storage: Storage) -> None:
    made = storage.envelope()
    with running(storage) as own:
        own.wait_state("ok")
        until(lambda: storage.ledger.envelope(made), "the envelope is known")
        assert storage.ledger.trace("1.2.3").kind == "study"


def test_the_last_events_are_taken_at_the_stop(storage: Storage) -> None:
    own = Running(storage)
    own.send(*(association(number) for number in range(1500)))
    own.start()
    own.stop()
    assert not path_in(storage.root).with_name("ledger.sqlite-wal").exists()
    assert storage.ledger.association("run-1499") is not None
    assert own.metrics.total("ledger_events_lost_total") == 0


@pytest.mark.fault("F131")
@pytest.mark.parametrize("fault", ["locked", "read-only", "no directory"])
def test_a_ledger_that_cannot_be_written_waits_and_catches_up(
    storage: Storage, fault: str, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = path_in(storage.root).parent
    with running(storage) as own:
        own.send(association(1))
        own.wait_association("run-1")
        other = sqlite3.connect(path_in(storage.root), isolation_level=None)
        if fault == "locked":
            other.execute("BEGIN IMMEDIATE")
        elif fault == "read-only":
            other.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON associations"
                " BEGIN SELECT RAISE(FAIL, 'attempt to write a readonly database'); END"
            )
        else:
            shutil.rmtree(directory)
            directory.write_text("in the way")
        own.send(association(2))
        row = own.wait_state("failing")
        made = storage.envelope()  # no event says so
        assert row["why"]
        if fault == "locked":
            other.execute("ROLLBACK")
        elif fault == "read-only":
            other.execute("DROP TRIGGER refuse")
        else:
            directory.unlink()
        other.close()
        own.wait_association("run-2")
        until(lambda: storage.ledger.envelope(made), "the envelope is known")
        own.wait_state("ok")
    lines = capfd.readouterr().err
    assert lines.count("ledger_failing") == lines.count("ledger_writes_again") == 1


@pytest.mark.fault("F133")
def test_the_end_of_a_process_makes_a_comparison_due(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chores, "SOON_SECS", 1e6)
    with running(storage) as own:
        own.wait_state("ok")
        until(lambda: path_in(storage.root).exists() and compared(storage), "it was compared once")
        made = storage.envelope()  # no event says so
        own.send({"kind": "error", "process": "supervisor", "event": "child_died", "text": ""})
        until(lambda: storage.ledger.envelope(made), "the envelope is known")


def compared(storage: Storage) -> bool:
    with suppress(LedgerUnavailable):
        return storage.ledger.info().compared_at is not None
    return False


@pytest.mark.fault("F132")
@pytest.mark.parametrize("when", ["at the start", "at work"])
def test_a_damaged_ledger_is_made_anew(
    storage: Storage, when: str, capfd: pytest.CaptureFixture[str]
) -> None:
    made = storage.envelope(count=2000)
    with running(storage) as own:
        own.wait_state("ok")
        if when == "at work":
            damage(path_in(storage.root))
            own.send(*(association(number) for number in range(50)))
            until(lambda: list(kept(storage)), "it is noticed")
            own.send(association(99))
            own.wait_association("run-99")
    if when == "at the start":
        damage(path_in(storage.root))
    with running(storage) as own:
        until(lambda: own.row().get("state") == "ok" and storage.ledger.envelope(made), "anew")
    assert list(kept(storage))
    assert storage.ledger.trace("1.2.3.1.1999").kind == "instance"
    assert "ledger_damaged" in capfd.readouterr().err


def damage(path: Path) -> None:
    """Overwrites all but the first page."""
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def kept(storage: Storage) -> Iterator[Path]:
    return path_in(storage.root).parent.glob("*.damaged-*")


@pytest.mark.fault("F132")
def test_a_deleted_ledger_is_made_anew_while_the_node_runs(storage: Storage) -> None:
    made = storage.envelope()
    with running(storage) as own:
        own.wait_state("ok")
        until(lambda: storage.ledger.envelope(made), "the envelope is known")
        for one in path_in(storage.root).parent.glob("ledger.sqlite*"):
            one.unlink()
        own.send(association(5))
        own.wait_association("run-5")
        until(lambda: storage.ledger.envelope(made), "the envelope is known again")


def test_a_file_at_rest_is_closed_and_the_lock_is_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quiet node has no file of the ledger open for writing; the next event opens it again."""
    monkeypatch.setattr(loop, "REST_SECS", 0.05)

    def open_files() -> list[str]:
        found = []
        for one in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(Path(one.readlink()).name)
        return found

    with running(storage) as own:
        own.send(association(1))
        own.wait_association("run-1")
        until(lambda: not [one for one in open_files() if "sqlite" in one], "the file is closed")
        with pytest.raises(LedgerUnavailable), write_lock(storage.root):
            pass
        own.send(association(2))
        own.wait_association("run-2")
        assert own.row()["state"] == "ok"


@pytest.mark.fault("F131")
def test_events_that_wait_are_bounded(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "EVENTS_MAX", 100)
    path_in(storage.root).parent.write_text("in the way")
    with running(storage) as own:
        own.wait_state("failing")
        for number in range(300):
            own.send(association(number))
        until(lambda: own.metrics.total("ledger_events_lost_total") >= 200, "the oldest are lost")
        path_in(storage.root).parent.unlink()
        own.wait_association("run-299")
    assert storage.ledger.association("run-0") is None


# -- other settings --------------------------------------------------------------------------------


def test_a_shorter_age_deletes_at_once(storage: Storage) -> None:
    """The next look at old rows would come in an hour."""
    with running(storage) as own:
        own.send(association(1, at=time.time()), association(2))
        own.wait_association("run-2")
        own.wait_state("ok")
        own.adopt(LedgerSettings(max_age_secs=86_400.0))
        until(lambda: storage.ledger.association("run-2") is None, "the old one is deleted")
        assert storage.ledger.association("run-1") is not None


def test_patients_that_are_to_be_kept_no_longer_are_deleted(storage: Storage) -> None:
    made = storage.envelope()

    def name() -> str:
        found = storage.ledger.envelope(made)
        return found.patient_name if found is not None else ""

    with running(storage) as own:
        own.wait_state("ok")
        until(name, "the patient is known")
        own.adopt(LedgerSettings(patient_data=False))
        until(lambda: not name(), "the patient is deleted")
        own.send(association(3))
        own.wait_association("run-3")
        assert own.row()["state"] == "ok"
