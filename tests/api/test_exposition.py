"""api/exposition.py: /metrics of a node, in both formats, and docs/metrics.md beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from fastjmix.ipc.metric_families import HISTOGRAMS
from tests.support.apis import LISTENER, Gateway, running
from tests.support.upstreams import authority

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"

UPSTREAM_ROWS = [
    {"name": "pacs", "state": "paused", "waiting": 2, "held": 1, "running": 0},
    {"name": "pacs", "state": "available", "waiting": 3, "held": 0, "running": 1},
]
LEDGER_ROW = {
    "state": "behind",
    "events_behind": 7,
    "bytes": 4096,
    "associations": [["CT1", "released", 2], ["other", "rejected", 9]],
    "instances": [['C"T\\2', "0000", 5], ["CT1", "A700", 1]],
    "attempts": [["pacs", "held", 4]],
    "rule_decisions": [["shots", "discard", 3]],
}


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """An API whose board has both rows, with a certificate on its other listener."""
    authority(tmp_path, days=20)
    pem = tmp_path / "upstream.pem"
    secure = replace(LISTENER, endpoint="secure", cert_file=pem, key_file=pem)
    with running(tmp_path, LISTENER, secure) as found:
        found.channels.board.publish("uploader", {"upstreams": UPSTREAM_ROWS})
        found.channels.board.publish("ledger", LEDGER_ROW)
        yield found


def families(gateway: Gateway) -> list[Metric]:
    text = gateway.get("/metrics").body.decode()
    return list(text_string_to_metric_families(text))


def value(found: Sequence[Metric], name: str, **labels: str) -> float:
    """Returns the one sample with this name and these labels."""
    (only,) = (
        sample.value
        for family in found
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return only


def test_what_is_counted_by_labels(gateway: Gateway) -> None:
    own = gateway.channels.metrics
    own.count("rejections_total", "called_ae")
    own.count("refusals_total", "A700")
    own.count("restarts_total", "packer")
    found = families(gateway)
    assert value(found, "fastjmix_rejections_total", reason="called_ae") == 1
    assert value(found, "fastjmix_rejections_total", reason="other") == 0
    assert value(found, "fastjmix_refusals_total", status="A700") == 1
    assert value(found, "fastjmix_restarts_total", process="packer") == 1
    name = "fastjmix_associations_total"
    assert value(found, name, calling_ae="CT1", result="released") == 2
    assert value(found, name, calling_ae="other", result="rejected") == 9
    assert value(found, "fastjmix_instances_total", calling_ae='C"T\\2', status="0000") == 5
    assert value(found, "fastjmix_attempts_total", upstream="pacs", outcome="held") == 4


def test_a_histogram_is_cumulated(gateway: Gateway) -> None:
    own = gateway.channels.metrics.histogram("commit_seconds")
    for secs in (0.00005, 0.002, 0.002, 700.0):
        own.observe(secs)
    found, name = families(gateway), "fastjmix_commit_seconds"
    assert value(found, f"{name}_bucket", le="0.0001") == 1
    assert value(found, f"{name}_bucket", le="0.0025") == 3
    assert value(found, f"{name}_bucket", le="5.0") == 3
    assert value(found, f"{name}_bucket", le="+Inf") == 4
    assert value(found, f"{name}_count") == 4
    assert value(found, f"{name}_sum") == pytest.approx(700.00405)


def test_upstreams_of_one_name_are_one_sample(gateway: Gateway) -> None:
    found = families(gateway)
    for state, number in {"available": 1, "paused": 1, "held": 0}.items():
        assert value(found, "fastjmix_upstream_state", upstream="pacs", state=state) == number
    assert value(found, "fastjmix_upstream_waiting", upstream="pacs") == 5
    assert value(found, "fastjmix_upstream_held", upstream="pacs") == 1


def test_the_ledger_and_the_disk(gateway: Gateway) -> None:
    found = families(gateway)
    assert value(found, "fastjmix_ledger_state", state="behind") == 1
    assert value(found, "fastjmix_ledger_state", state="ok") == 0
    assert value(found, "fastjmix_ledger_events_waiting") == 7
    assert value(found, "fastjmix_ledger_size_bytes") == 4096
    marks = [value(found, "fastjmix_storage_mark_bytes", mark=one) for one in ("hard", "soft")]
    assert 0 < marks[0] < marks[1] < value(found, "fastjmix_storage_size_bytes")
    assert value(found, "fastjmix_ready") == 1


def test_the_end_of_a_certificate(gateway: Gateway, tmp_path: Path) -> None:
    file = str(tmp_path / "upstream.pem")
    ends = value(families(gateway), "fastjmix_certificate_expiry_seconds", file=file)
    assert 19 < (ends - time.time()) / 86_400 < 21


def test_a_node_that_has_just_begun_has_no_rows(tmp_path: Path) -> None:
    with running(tmp_path) as young:
        names = {family.name for family in families(young)}
    assert "fastjmix_ledger_state" in names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (prometheus) is missing")
def test_promtool_finds_nothing(gateway: Gateway) -> None:
    text = gateway.get("/metrics").body
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_openmetrics_where_it_is_asked_for(gateway: Gateway) -> None:
    answer = gateway.get("/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    text = answer.body.decode()
    found = list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    assert value(found, "fastjmix_upstream_waiting", upstream="pacs") == 5
    plain = gateway.get("/metrics", Accept="*/*")
    assert plain.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_the_page_of_the_documentation_has_each_family(gateway: Gateway) -> None:
    """Its name, type, labels and meaning."""
    shown = {}
    for family in families(gateway):
        counter = family.type == "counter"
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        name = family.name.removeprefix("fastjmix_") + "_total" * counter
        order = [one for one in LABELS if one in labels]
        shown[name] = (family.type, ", ".join(f"`{one}`" for one in order), family.documentation)
    assert documented() == shown


LABELS = (
    "calling_ae",
    "upstream",
    "reason",
    "status",
    "result",
    "outcome",
    "process",
    "state",
    "mark",
    "file",
    "version",
    "rule",
    "action",
)


def documented() -> dict[str, tuple[str, str, str]]:
    """Returns the table of docs/metrics.md: type, labels and meaning, by name."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", PAGE.read_text("utf-8"), re.M)
    return {name: (kind, labels.strip(), meaning) for name, kind, labels, meaning in rows}


def test_each_histogram_is_explained() -> None:
    text = PAGE.read_text("utf-8").partition("## Histograms")[2]
    assert re.findall(r"^\| `(\w+)`", text, re.M) == list(HISTOGRAMS)
