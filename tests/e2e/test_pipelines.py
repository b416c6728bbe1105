"""Several pipelines in one node: each with its own listeners, builder, rules, hooks and targets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from fastjmix.tools import launch
from tests.support import wire
from tests.support.gateway import Gateway, Peer, Store, get, members, running

SECOND = """
[pipelines.mr]
networks = ["mr_net"]
endpoints = ["mr_receiver"]
middleware = ["mr_rules", "mr_builder", "mr_hook"]
backends = ["mr_upstream"]

[network.mr_net.tcp_config]
bind_address = "127.0.0.1"
bind_port = 0

[endpoints.mr_receiver]
service = "dicom_scp"

[endpoints.mr_receiver.options]
local_aet = "MR_RECEIVER"
max_associations = 3

[middleware.mr_rules]
type = "route"

[[middleware.mr_rules.options.rules]]
name = "phantoms"
calling_ae = "PHANTOM"
action = "reject"

[middleware.mr_builder]
type = "jmix_builder"

[middleware.mr_builder.options]
digest = "blake3"
release_grace_secs = 0

[middleware.mr_hook]
type = "command"

[middleware.mr_hook.options]
argv = ["/bin/sh", "-c", "echo '{{\\"tags\\": [\\"mr\\"]}}'"]

[backends.mr_upstream]
service = "jmix_backend"

[backends.mr_upstream.options]
base_url = "http://127.0.0.1:{upstream}"

[pipelines.mr_query]
networks = ["mr_http_net"]
endpoints = ["mr_http"]
middleware = ["passthru"]
backends = ["mr_upstream"]

[network.mr_http_net.http]
bind_address = "127.0.0.1"
bind_port = 0

[endpoints.mr_http]
service = "jmix"

[endpoints.mr_http.options]
path_prefix = "/mr"
"""


class Both(NamedTuple):
    """A node with two pipelines, the upstream of each, and the ports of the second."""

    gateway: Gateway
    first: Store
    second: Store
    dicom_port: int
    http_port: int


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("pipelines")
    with running(Store(directory / "1")) as first, running(Store(directory / "2")) as second:
        node = directory / "node"
        (node / "pipelines").mkdir(parents=True)
        (node / "pipelines" / "mr.toml").write_text(SECOND.format(upstream=second.port))
        with running(Gateway(node, first.port, builder="release_grace_secs = 0")) as own:
            dicom = int(own.wait_for(launch.listening("dicom"), 2)[1])
            http = int(own.wait_for(launch.listening("http"), 2)[1])
            yield Both(own, first, second, dicom, http)


def store(port: int, called: bytes, study: str, calling: bytes = b"PEER") -> int:
    """Stores one instance of a study. Returns its status."""
    with Peer(port) as peer:
        kind, _ = peer.associate(called=called, calling=calling)
        assert kind == 2
        status = peer.store(wire.data_set("1.2.3.9", study=study))
        peer.release()
        return status


def test_each_pipeline_has_its_own_builder_and_target(both: Both) -> None:
    assert store(both.gateway.dicom_port, b"JMIX_RECEIVER", "1.2.1") == 0
    assert store(both.dicom_port, b"MR_RECEIVER", "1.2.2") == 0
    (one,), (two,) = both.first.wait_held(1), both.second.wait_held(1)
    assert (one["studyInstanceUid"], two["studyInstanceUid"]) == ("1.2.1", "1.2.2")
    for found, algorithm in ((one, "sha256"), (two, "blake3")):
        archive = both.gateway.spool / "sent" / f"{found['id']}.zip"
        both.gateway.wait_for(f"envelope_uploaded envelope={found['id']}")
        manifest = next(data for name, data in members(archive).items() if "manifest" in name)
        assert re.search(algorithm.encode(), manifest), manifest[:400]
        tags = json.loads(archive.with_suffix(".json").read_bytes()).get("tags", [])
        assert list(tags) == (["mr"] if algorithm == "blake3" else [])


def test_a_study_at_both_is_an_envelope_of_each(both: Both) -> None:
    assert store(both.gateway.dicom_port, b"JMIX_RECEIVER", "1.2.7") == 0
    assert store(both.dicom_port, b"MR_RECEIVER", "1.2.7") == 0
    for upstream in (both.first, both.second):
        held = upstream.wait_held(2)
        assert [one["studyInstanceUid"] for one in held].count("1.2.7") == 1


def test_rules_and_ae_titles_of_one_are_not_the_others(both: Both) -> None:
    assert store(both.dicom_port, b"MR_RECEIVER", "1.2.3", b"PHANTOM") == 0xC000
    assert store(both.gateway.dicom_port, b"JMIX_RECEIVER", "1.2.3", b"PHANTOM") == 0
    for port, foreign in (
        (both.dicom_port, b"JMIX_RECEIVER"),
        (both.gateway.dicom_port, b"MR_RECEIVER"),
    ):
        with Peer(port) as peer:
            assert peer.associate(called=foreign)[0] == 3
    assert store(both.dicom_port, b"MR_RECEIVER", "1.2.4") == 0


def test_each_http_listener_has_its_own_prefix(both: Both) -> None:
    assert get(f"http://127.0.0.1:{both.http_port}/mr/api/jmix?studyInstanceUid=0")[0] == 404
    paths = (f"{both.gateway.http}/mr/api/jmix", f"http://127.0.0.1:{both.http_port}/jmix/api/jmix")
    for path in paths:
        assert b"no envelope" not in get(f"{path}?studyInstanceUid=0")[2]
