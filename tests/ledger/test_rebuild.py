"""`fastjmix ledger rebuild` and `info`, with and without a running node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastjmix.ledger.database import LedgerUnavailable, path_in
from fastjmix.ledger.rebuild import rebuild
from tests.support.gateway import NOT_LISTENING, Gateways, run_command, until, write_config
from tests.support.storages import Storage


def test_all_that_is_on_the_disk_is_read_again(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    made = [storage.envelope(f"1.2.{n}", state) for n, state in enumerate(("sent", "rejected"))]
    left: list[int] = []
    assert rebuild(tmp_path, patient_data=True, progress=left.append).envelopes == 2
    assert left[-1] == 0
    with storage.writer() as writer:
        writer.connection.execute("UPDATE envelopes SET calling_ae = 'wrong', patient_name = ''")
    rebuild(tmp_path, patient_data=True)
    assert all(storage.ledger.trace(one).envelopes[0].envelope.calling_ae == "CT1" for one in made)
    assert len(storage.ledger.trace("yamada").envelopes) == 2


def test_what_is_gone_from_the_disk_stays_known(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    made = storage.envelope("1.2.3", "sent")
    rebuild(tmp_path, patient_data=True)
    storage.delete(made, "sent")
    assert rebuild(tmp_path, patient_data=True).envelopes == 0
    assert storage.ledger.trace("1.2.3.1.0").envelopes[0].envelope.state == "gone"


@pytest.mark.fault("F132")
def test_a_damaged_file_is_moved_away(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.envelope()
    rebuild(tmp_path, patient_data=True)
    path_in(tmp_path).write_bytes(b"damaged" * 1000)
    done = rebuild(tmp_path, patient_data=True)
    assert done.damaged is not None
    assert done.damaged.read_bytes().startswith(b"damaged")
    assert storage.ledger.info().envelopes == 1


def test_a_directory_that_is_no_storage_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailable, match="has no building/"):
        rebuild(tmp_path, patient_data=True)
    assert list(tmp_path.iterdir()) == []


def test_the_commands_while_no_node_runs(tmp_path: Path) -> None:
    write_config(tmp_path, NOT_LISTENING)
    storage = Storage(tmp_path / "spool")
    one = storage.envelope()
    missing = run_command("ledger", "info", cwd=tmp_path)
    assert (missing.returncode, "no ledger yet" in missing.stderr) == (1, True)
    done = run_command("ledger", "rebuild", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == {"envelopes": 1, "damaged": None}
    storage.delete(one, "outbox")
    assert "0 envelopes read" in run_command("ledger", "rebuild", cwd=tmp_path).stdout
    info = json.loads(run_command("ledger", "info", "--json", cwd=tmp_path).stdout)
    assert (info["envelopes"], info["instances"], info["states"]["outbox"]["count"]) == (1, 3, 0)
    assert "0 outbox" in run_command("ledger", "info", cwd=tmp_path).stdout


def test_a_running_node_keeps_its_ledger(start: Gateways) -> None:
    own = start()
    own.children()
    until(path_in(own.spool).exists, "the ledger is there")
    done = run_command("ledger", "rebuild", cwd=own.spool.parent)
    assert done.returncode == 1
    assert "another process writes the ledger" in done.stderr
    assert run_command("ledger", "info", cwd=own.spool.parent).returncode == 0
