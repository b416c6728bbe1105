"""tools/drain.py and `fastjmix drain`: a running node is drained, followed, and let go again."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import wire
from tests.support.gateway import (
    COMMAND,
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    run_command,
    running,
    until,
)
from tests.support.manager import Manager

CONGESTED = (3, b"\0\2\3\1")


@pytest.fixture
def gateway_defaults(store: Store) -> dict[str, Any]:
    return {"upstream": store.port, "builder": "release_grace_secs = 60"}


@contextmanager
def draining(own: Gateway, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Runs `fastjmix drain`, and waits until a newcomer is rejected."""
    own.wait_for("http_listening")
    command = [*COMMAND, "drain", "--storage", str(own.spool), *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            own.wait_for(" draining by=")
            until(lambda: asks(own) == CONGESTED, "a newcomer is rejected")
            yield process
        finally:
            process.kill()


def asks(own: Gateway) -> tuple[int, bytes]:
    """Returns the answer to an A-ASSOCIATE-RQ."""
    with Peer(own.dicom_port, PATIENCE) as peer:
        answer = peer.associate()
        if answer[0] == 2:
            peer.release()
        return answer


def undo(own: Gateway) -> subprocess.CompletedProcess[str]:
    return run_command("drain", "--undo", "--storage", own.spool)


def test_it_waits_for_the_end_and_says_for_what(start: Gateways) -> None:
    own = start()
    with Peer(own.dicom_port, PATIENCE) as peer:
        peer.associate()
        with draining(own) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "waits: 1 association open\n"
            status, _, body = get(own.http + "/readyz")
            assert (status, b"fastjmix drains" in body) == (503, True)
            shown = run_command("status", "--storage", own.spool, "--json")
            row = json.loads(shown.stdout)["node"]["configuration"]["draining"]
            assert (row["phase"], row["until"] - row["since"]) == ("closing", 900)
            assert peer.store(wire.data_set()) == 0
            peer.release()
            out, _ = process.communicate(timeout=PATIENCE)
            assert (process.returncode, out) == (0, "the node has ended\n")
    assert own.child.wait(PATIENCE) == 0
    assert [len(own.envelopes(one)) for one in ("outbox", "sent")] == [0, 1]


def test_it_is_undone(start: Gateways) -> None:
    """A command that followed it is told; the node takes associations again, and delivers."""
    own = start(builder="release_grace_secs = 0.1")
    with Peer(own.dicom_port, PATIENCE) as peer:
        peer.associate()
        with draining(own, "--json") as process:
            done = undo(own)
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
            assert "takes associations again" in done.stderr
            out, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 1
            assert json.loads(out) == {"drain": "undone", "exit_code": 1}
            assert "was undone meanwhile" in said
        own.wait_for("drain_undone phase=closing")
        until(lambda: get(own.http + "/readyz")[0] == 200, "it is ready")
        until(lambda: asks(own)[0] == 2, "it takes associations")
        assert peer.store(wire.data_set()) == 0
        peer.release()
    own.wait_sent()
    again = undo(own)
    assert (again.returncode, "no drain lasts" in again.stderr) == (1, True)


def test_it_need_not_be_waited_for(start: Gateways) -> None:
    own = start()
    own.wait_for("http_listening")
    done = run_command("drain", "--no-wait", "--storage", own.spool, "--json")
    assert (done.returncode, json.loads(done.stdout)["drain"]) == (0, "begun")
    assert own.child.wait(PATIENCE) == 0


def test_what_it_refuses(tmp_path: Path, start: Gateways) -> None:
    own = start()
    assert own.stop() == 0
    assert run_command("drain", "--storage", own.spool).returncode == 3
    assert run_command("drain", "--undo", "--no-wait", "--storage", own.spool).returncode == 2


def test_a_stop_by_a_service_manager_is_not_undone(tmp_path: Path) -> None:
    """It would kill the node after its time limit."""
    with Manager() as manager, running(manager.start(tmp_path / "own", 9)) as own:
        own.wait_for("http_listening")
        with Peer(own.dicom_port, PATIENCE) as peer:
            peer.associate()
            own.child.send_signal(signal.SIGTERM)
            own.wait_for(" draining ")
            done = undo(own)
            assert done.returncode == 1
            assert "the service manager stops this node" in done.stderr
            peer.release()
        assert own.child.wait(PATIENCE) == 0
