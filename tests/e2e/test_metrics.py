"""A whole gateway, a sender, and an upstream that fails: /metrics says which step does what."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.test_gateway import study_files, tool
from tests.support import wire
from tests.support.gateway import Gateway, Gateways, Peer, Store, get, running, until

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(own: Gateway) -> Samples:
    text = get(f"{own.http}/metrics")[2].decode()
    return {
        (sample.name.removeprefix("fastjmix_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(own: Gateway, name: str, **labels: str) -> float:
    """Returns a sample; 0 where there is none yet."""
    return scrape(own).get((name, frozenset(labels.items())), 0.0)


def test_each_step_of_an_envelope_is_measured(start: Gateways, tmp_path: Path) -> None:
    """The upstream is away first: the attempts, its state and the queue show it."""
    study_files(tmp_path / "files", 5)
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))  # it does not listen
        port = refusing.getsockname()[1]
        own = start(port, builder="release_grace_secs = 0.2")
        sender = tool(
            *("storescu", "-aec", "JMIX_RECEIVER", "-aet", "CT1", "--scan-directories"),
            *("127.0.0.1", str(own.dicom_port), str(tmp_path / "files")),
        )
        assert sender.returncode == 0, sender.stderr
        upstream = {"upstream": "jmix_upstream"}
        paused, available = {**upstream, "state": "paused"}, {**upstream, "state": "available"}
        until(lambda: value(own, "upstream_state", **paused) == 1, "the upstream is paused")
        retried = {**upstream, "outcome": "retry"}
        until(lambda: value(own, "attempts_total", **retried) >= 1, "an attempt was counted")
        assert value(own, "upstream_waiting", **upstream) == 1
        assert value(own, "response_seconds_count") == 5
        assert value(own, "response_seconds_bucket", le="30.0") == 5
        assert 1 <= value(own, "commit_seconds_count") <= 5
        assert value(own, "seal_seconds_count") == 1
        released = {"calling_ae": "CT1", "result": "released"}
        until(lambda: value(own, "associations_total", **released) == 1, "it was counted")
        assert value(own, "instances_total", calling_ae="CT1", status="0000") == 5
        assert value(own, "upload_seconds_count") >= 1
        assert value(own, "delivery_seconds_count") == 0
    with running(Store(tmp_path, port=port)):
        own.wait_sent()
        until(lambda: value(own, "delivery_seconds_count") == 1, "the delivery was counted")
        assert value(own, "delivery_seconds_sum") > value(own, "upload_seconds_sum") > 0
        until(lambda: value(own, "upstream_state", **available) == 1, "it is available")


def test_what_was_refused_rejected_or_restarted_has_its_reason(start: Gateways) -> None:
    own = start(endpoint="max_associations = 1")
    assert value(own, "ready") == 1
    lanes = value(own, "lanes")
    with Peer(own.dicom_port) as peer:
        assert peer.associate()[0] == 2
        assert value(own, "lanes_in_use") == 1
        assert value(own, "lanes") == lanes >= 1
        with Peer(own.dicom_port) as another:
            assert another.associate()[0] == 3
        with Peer(own.dicom_port) as stranger:
            assert stranger.associate(called=b"SOMEBODY_ELSE")[0] == 3
        assert peer.store(wire.data_set(), "1.2.x") == 0x0117
        peer.release()
    found = scrape(own)
    for name, label, counted in (
        ("rejections_total", "reason", "listener_full"),
        ("rejections_total", "reason", "called_ae"),
        ("refusals_total", "status", "0117"),
    ):
        assert found[name, frozenset({(label, counted)})] == 1
    mine = {"calling_ae": "PEER", "status": "0117"}
    until(lambda: value(own, "instances_total", **mine) == 1, "the association has ended")
    assert value(own, "associations_total", calling_ae="other", result="rejected") == 2
    os.kill(own.children()["packer-0"], signal.SIGKILL)
    until(lambda: value(own, "restarts_total", process="packer") == 1, "the packer is back")
    until(lambda: value(own, "ready") == 1, "the node is ready again")
