"""A node that is asked over its local socket how it is, while modalities send."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from fastjmix.control.client import ControlClient, NodeAway
from tests.support import wire
from tests.support.gateway import Gateway, Peer, Process, Store, run_to_end, running, until

STATUS = "/api/node/status"


def status(own: Gateway) -> dict[str, Any]:
    return ControlClient(own.spool).get(STATUS)


def test_an_association_is_shown_with_what_it_waits_for(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own, Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"CT_SLOW")[0] == 2
        assert peer.store(wire.data_set(study="1.2.3.4")) == 0
        (row,) = until(lambda: status(own)["associations"], "it is open")
        assert (row["calling_ae"], row["called_ae"]) == ("CT_SLOW", "JMIX_RECEIVER")
        assert row["peer"].startswith("127.0.0.1:")
        assert row["id"].endswith(f"-{row['number']}")
        until(lambda: status(own)["associations"][0]["waits_for"] == "peer", "the peer is awaited")
        assert status(own)["lanes"]["leased"] == 1
        events = ControlClient(own.spool).events("/api/node/events")
        before = next(events)["associations"][0]["bytes"]
        sent = wire.pdvs(1, wire.store_rq("1.2.3.10"), True)
        peer.send(wire.p_data(sent + wire.pdvs(1, b"y" * 50_000, False, [10_000] * 5)[:-1]))
        until(lambda: next(events)["associations"][0]["bytes"] > before, "its bytes are shown")


def test_an_envelope_that_waits_and_one_that_went(tmp_path: Path) -> None:
    quick = "release_grace_secs = 0.1"
    with (
        running(Store(tmp_path / "up")) as store,
        running(Gateway(tmp_path / "gw", store.port, builder=quick)) as own,
        Peer(own.dicom_port) as peer,
    ):
        status(own)  # it counts from now on
        peer.associate()
        assert peer.store(wire.data_set(study="1.2.3.4")) == 0
        rows = until(lambda: status(own)["envelopes"]["listed"], "it is being packed")
        assert (rows[0]["state"], rows[0]["study"]) == ("building", "1.2.3.4")
        peer.release()
        own.wait_sent()
        until(lambda: not status(own)["envelopes"]["listed"], "it has gone")
        answer = until(lambda: status(own)["upstreams"][0]["last_answer"], "it is known")
        assert answer["status"] == 201
        until(lambda: sum(status(own)["rates"]["received_instances"]) == 1, "a step is over")


def test_a_node_without_an_http_endpoint_has_the_socket(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        text = (tmp_path / "pipelines" / "dicom-to-jmix.toml").read_text()
        port = own.http_port
        own.stop()
    (tmp_path / "pipelines" / "dicom-to-jmix.toml").write_text(
        text[: text.index("[pipelines.jmix_query]")]
    )
    with running(Process("run", "-c", "config.toml", cwd=tmp_path)) as node:
        node.wait_for("started")
        assert ControlClient(tmp_path / "spool").get(STATUS)["node"]["state"] == "ready"
        assert str(port) not in node.log()


def test_the_socket_outlives_the_process_that_serves_it(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        assert status(own)["node"]["pid"] == own.child.pid
        os.kill(own.children()["api"], signal.SIGKILL)
        own.wait_for("child_restarted")
        until(lambda: status(own)["node"]["pid"] == own.child.pid, "it serves again")
        (error,) = until(lambda: status(own)["errors"], "the ledger knows of it")
        assert (error["event"], error["process"]) == ("child_died", "supervisor")
        assert "child=api how=SIGKILL" in error["text"]
        assert "started again" in error["what_to_do"]


def test_a_killed_node_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        status(own)
        own.child.kill()
        own.child.wait()
        assert (own.spool / "control.sock").exists()
        until(lambda: not _answers(own), "its processes have ended")
    with running(Gateway(tmp_path, 9)) as own:
        assert status(own)["node"]["state"] == "ready"
        assert own.stop() == 0
        assert not (own.spool / "control.sock").exists()
        with pytest.raises(NodeAway, match="does not run"):
            status(own)


def test_a_socket_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    sooner = "import fastjmix.api.admin.local as l; l.LOOK_SECS = 0.1"
    with running(Gateway(tmp_path, 9, first=sooner)) as own:
        status(own)
        (own.spool / "control.sock").unlink()
        until((own.spool / "control.sock").exists, "it is there again")
        assert status(own)["node"]["state"] == "ready"


def test_a_file_in_its_place_keeps_nothing_from_running(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "control.sock").write_text("a person's")
    with running(Gateway(tmp_path, 9)) as own:
        own.wait_for("control_unavailable")
        with Peer(own.dicom_port) as peer:
            peer.associate()
            peer.release()
        assert own.stop() == 0
        assert (own.spool / "control.sock").read_text() == "a person's"


def _answers(own: Gateway) -> bool:
    try:
        status(own)
    except NodeAway:
        return False
    return True


STRANGER = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setgroups([])
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as made:
    made.connect("control.sock")
    made.sendall(b"GET /api/node/status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
    print(made.recv(65536).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_refused_even_where_the_file_lets_him_in(tmp_path: Path) -> None:
    with running(Gateway(tmp_path, 9)) as own:
        status(own)
        own.spool.chmod(0o711)
        (own.spool / "control.sock").chmod(0o666)
        done = run_to_end(sys.executable, "-c", STRANGER, own.spool)
        assert done.stdout.startswith("HTTP/1.1 403 "), done
        assert "for root" in done.stdout
