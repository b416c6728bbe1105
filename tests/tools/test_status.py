"""`fastjmix status`: of a running node, of a stopped one, and each second."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from fastjmix.tools.status import show
from tests.support.gateway import Gateway, Process, run_command, running, until, write_config
from tests.support.storages import Storage


def status(where: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_command("status", *more, cwd=where)


def test_a_running_and_a_stopped_node(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        told = status(tmp_path)
        assert told.returncode == 0
        assert told.stdout.startswith("under-test: ready (fastjmix ")
        running_keys = json.loads(status(tmp_path, "--json").stdout).keys()
        own.stop()
        Storage(own.spool).envelope(state="rejected", refusal={"status": 404, "why": "no"})
        told = status(tmp_path)
        assert told.returncode == 3
        assert "does not run" in told.stdout
        assert "HTTP 404: no" in told.stdout
        found = json.loads(status(tmp_path, "--json").stdout)
        assert found["exit_code"] == 3
        assert found.keys() == running_keys
        assert found["envelopes"]["rejected"]["count"] == 1


def test_a_node_that_is_not_ready(tmp_path: Path) -> None:
    with running(
        Gateway(
            tmp_path,
            9,
            storage="soft_reserve_bytes = 1_000_000_000_000_000\nhard_reserve_bytes = 0",
        )
    ) as own:
        told = status(own.spool.parent)
        assert (told.returncode, "nearly full" in told.stdout) == (1, True), told


def test_watch_prints_each_second_until_the_node_ends(tmp_path: Path) -> None:
    with (
        running(Gateway(tmp_path, 9)) as own,
        running(Process("status", "--watch", "-c", "config.toml", cwd=tmp_path)) as watching,
    ):
        watching.wait_for("under-test: ready", 2)
        assert "\x1b" not in watching.log()
        own.stop()
        watching.wait_for("has ended")
        assert watching.child.wait(20) == 3


def test_watch_and_json_are_two_things(tmp_path: Path) -> None:
    write_config(tmp_path, 9)
    assert status(tmp_path, "--watch", "--json").returncode == 2
    (tmp_path / "spool").mkdir()
    assert status(tmp_path, "--watch").returncode == 3


def test_no_storage_is_no_status(tmp_path: Path) -> None:
    write_config(tmp_path, 9)
    told = status(tmp_path)
    assert (told.returncode, "no storage of a fastjmix" in told.stderr) == (2, True)


def test_every_part_has_its_lines(tmp_path: Path) -> None:
    """One of a node with much to show, as its JSON says it; names of peers are escaped."""
    evil = "CT\x1b[31m\n1"
    row: dict[str, Any] = {
        "state": "outbox", "study": "1.2", "calling_ae": evil, "upstream": "up", "id": "i",
        "at_upstreams": [], "instances": None, "bytes": 5, "age_secs": 200, "reason": "",
    }  # fmt: skip
    count = {"count": 1, "bytes": 5e9, "oldest_secs": 7300}
    told: Any = {
        "node": {"name": evil, "version": "1", "pid": 1, "started": 0.0, "now": 1e9,
                 "state": "not ready", "reasons": ["full"], "warnings": [evil], "draining": None,
                 "configuration": {"generation": 3, "configured_at": 1e9, "needs_restart": [],
                                   "late": [], "draining": None,
                                   "refused": {"at": 1e9, "faults": [evil, "[proxy] nam"]}}},
        "associations": [{"calling_ae": evil, "peer": "p", "mb_per_second": 1.25, "bytes": 10,
                          "instances": 2, "began": 1e9 - 5, "waits_for": "disk"}],
        "lanes": {"leased": 1, "total": 64, "stalled": 0},
        "rates": {"step_secs": 5, "received_mb": [10, 20], "received_instances": [1, 2],
                  "discarded_instances": [0, 2],
                  "delivered_mb": [], "delivered_envelopes": []},
        "envelopes": {**dict.fromkeys(("building", "outbox", "held", "rejected", "sent"), count),
                      "listed": [row]},
        "upstreams": [{"name": "up", "state": "held", "since": 1e9, "waiting": 5, "running": 0,
                       "held": 1, "next_try": 1e9 + 30, "reason": "the directory is full",
                       "last_answer": {"at": 1e9, "status": 401, "reason": evil}}],
        "disk": None,
        "ledger": {},
        "rejections": [{"at": 1e9, "last": 1e9, "times": 2, "calling_ae": evil, "called_ae": "B",
                        "peer": "p", "why": "w"}],
        "errors": [{"last": 1e9, "process": "packer-0", "text": evil, "times": 3,
                    "what_to_do": "look"}],
    }  # fmt: skip
    text = "\n".join(show.lines(told))
    assert "\x1b" not in text
    for part in ("not ready", "! full", "5.0 GB", "3 min", "HTTP 401", "1.2 MB/s", "3.0 MB/s",
                 "generation 3", "! refused", "[proxy] nam", "disk: cannot be read", "(3 times)",
                 "next try in 30 s", "the directory is full",
                 "3 instances, of which rules discarded 2"):  # fmt: skip
        assert part in text, part


def test_a_status_while_the_node_restarts_is_waited_for(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        until(lambda: status(tmp_path).returncode == 0, "it answers")
        assert own.child.poll() is None
