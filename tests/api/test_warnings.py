"""api/warnings.py: each thing that is wrong is one sentence with numbers and what to do."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastjmix.api.warnings import Warnings, certificates_of, in_words
from fastjmix.ipc.channels import Channels
from fastjmix.ipc.metrics import MetricsPage
from fastjmix.spool import FreeSpace, Spool, tally
from fastjmix.spool.tally import Tally
from tests.support.apis import LISTENER, OTHER, UPSTREAM, Gateway, running, settings
from tests.support.envelopes import ID, envelope
from tests.support.upstreams import authority

THIRD = "550e8400-e29b-41d4-a716-446655440002"


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the envelopes at each question."""
    monkeypatch.setattr(tally, "LOOK_SECS", 0.0)
    monkeypatch.setattr(tally, "REST", 0.0)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path) as found:
        yield found


def warned(gateway: Gateway) -> list[str]:
    answer = gateway.get("/readyz")
    assert (answer.status, answer.json["status"]) == (200, "ready")
    found: list[str] = answer.json.get("warnings", [])
    return found


def states(gateway: Gateway, name: str) -> dict[str, float]:
    """Returns the samples of a gauge by state."""
    text = gateway.get("/metrics").body.decode()
    return {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


# -- envelopes -----------------------------------------------------------------------------------


@pytest.mark.fault("F142")
def test_rejected_and_held_envelopes(gateway: Gateway) -> None:
    assert warned(gateway) == []
    for one in (ID, OTHER, THIRD):
        gateway.put(envelope(one), id=one)
    gateway.spool.reject(ID, {"status": 400})
    gateway.spool.reject(OTHER, {"status": 400})
    os.utime(gateway.spool.rejected / f"{ID}.json", (time.time() - 7300,) * 2)
    hold = gateway.spool.outbox / f"{THIRD}.hold"
    hold.write_bytes(b'{"by": "uid 1000", "why": "wrong patient"}')
    rejected, held = warned(gateway)
    assert rejected.startswith("2 envelopes are in rejected/, the first 2 hours ago: ")
    assert "requeue" in rejected
    assert held.startswith("1 envelope is on hold, the first for ")
    assert "release" in held
    assert "patient" not in held
    assert states(gateway, "fastjmix_envelopes") == {
        "building": 0,
        "outbox": 0,
        "held": 1,
        "rejected": 2,
        "sent": 0,
    }
    assert states(gateway, "fastjmix_envelopes_bytes")["rejected"] == 2 * len(envelope(ID))
    ages = states(gateway, "fastjmix_envelopes_oldest_age_seconds")
    assert 7300 <= ages["rejected"] < 7400
    assert ages["outbox"] == 0
    assert "sent" not in ages


def test_a_held_envelope_waits_for_no_upstream(gateway: Gateway) -> None:
    gateway.put(envelope(ID))
    os.utime(gateway.spool.path("outbox", ID), (1, 1))
    assert "queue_alarm_secs" in warned(gateway)[0]
    (gateway.spool.outbox / f"{ID}.hold").write_bytes(b"{}")
    assert ["on hold" in one for one in warned(gateway)] == [True]


# -- other processes -----------------------------------------------------------------------------


def row(**changes: Any) -> dict[str, Any]:
    usual = {
        "name": "pacs",
        "url": "http://user:secret@pacs/",
        "state": "available",
        "since": 1.0,
        "reason": "",
        "next_try": None,
        "last_answer": None,
        "waiting": 12,
        "held": 0,
        "running": 0,
        "oldest": None,
    }
    return {**usual, **changes}


@pytest.mark.fault("F142")
def test_upstreams_that_are_paused_or_held(gateway: Gateway) -> None:
    board = gateway.channels.board
    board.publish("uploader", {"upstreams": [row()]})
    assert warned(gateway) == []
    gateway.channels.metrics.set("upstreams_held", 1)
    held = row(name="a\nb", state="held", reason="the upstream does not accept our credentials")
    board.publish("uploader", {"upstreams": [row(), row(state="paused", reason="x" * 999), held]})
    paused, refused = warned(gateway)
    assert paused.startswith(f"upstream pacs is paused, 12 wait for it: {'x' * 200}; see whether")
    assert refused.startswith("upstream a\\nb is on hold, 12 wait for it: the upstream does not")
    assert "credentials" in refused.rpartition(": ")[2]
    assert "secret" not in paused + refused
    board.publish("uploader", {"upstreams": []})
    assert "upstream_held in the log" in warned(gateway)[0]


def test_envelopes_whose_upstream_is_not_configured(gateway: Gateway) -> None:
    gateway.channels.metrics.set("outbox_unrouted", 2)
    (warning,) = warned(gateway)
    assert warning.startswith("2 envelopes are for an upstream that is not configured: ")
    gateway.channels.metrics.set("outbox_unrouted", 0)
    assert warned(gateway) == []


@pytest.mark.parametrize(("state", "count"), [("ok", 0), ("behind", 1), ("failing", 1)])
def test_the_ledger(gateway: Gateway, state: str, count: int) -> None:
    gateway.channels.board.publish("ledger", {"state": state, "why": "No space left on device"})
    found = warned(gateway)
    assert len(found) == count
    for one in found:
        assert f"the ledger is {state}: No space left on device" in one


# -- disk ----------------------------------------------------------------------------------------


@contextmanager
def over(tmp_path: Path, soft: int, hard: int = 0, **more: Any) -> Iterator[Warnings]:
    """The warnings of a spool on this disk, with these marks."""
    spool = Spool(tmp_path / "spool", durable=False)
    spool.prepare()
    metrics = MetricsPage(1).row(0)
    free_space = FreeSpace(spool.root, soft, hard, metrics)
    yield Warnings(Channels(-1, -1, {}, metrics), free_space, Tally(spool), 3600.0, **more)
    spool.release()


@pytest.mark.fault("F142")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with over(tmp_path, free // 3) as one:
        assert not [text for text in one.all() if "storage" in text]
    with over(tmp_path, free // 2, free // 4) as one:
        (text,) = (text for text in one.all() if "fills up" in text)
    found = re.search(
        r"([\d.]+) GB \(([\d.]+) %\) free of ([\d.]+) GB, below ([\d.]+) GB .* no association is "
        r"accepted, below ([\d.]+) GB .* no instance; free some",
        text,
    )
    assert found is not None
    shown_free, percent, total, soft, hard = map(float, found.groups())
    assert shown_free == pytest.approx(free / 1e9, rel=0.1)
    assert percent == pytest.approx(100 * shown_free / total, abs=0.2)
    assert (soft, hard) == pytest.approx((free / 2e9, free / 4e9), rel=0.1, abs=0.1)


def test_a_full_disk_is_a_reason_with_numbers(tmp_path: Path) -> None:
    """Not ready is no reason to be silent about the rest."""
    with running(tmp_path, soft_reserve_bytes=1 << 60) as gateway:
        gateway.put(envelope(ID))
        gateway.spool.reject(ID, {"status": 400})
        answer = gateway.get("/readyz")
        assert answer.status == 503
        (reason,) = answer.json["reasons"]
        assert reason.startswith("the storage is nearly full: ")
        assert "GB" in reason
        assert "rejected/" in answer.json["warnings"][0]


# -- certificates --------------------------------------------------------------------------------


@pytest.mark.fault("F142")
@pytest.mark.parametrize(
    ("days", "words"), [(-1, "expired on"), (10, "expires on .* in 9 days"), (60, None)]
)
def test_a_listeners_certificate(tmp_path: Path, days: int, words: str | None) -> None:
    authority(tmp_path, days=days)
    pair = tmp_path / "upstream.pem"
    config = settings(tmp_path, (replace(LISTENER, cert_file=pair, key_file=pair),), 5.0)
    with over(tmp_path, 0, certificates=certificates_of(config)) as one:
        found = [text for text in one.all() if "certificate" in text]
    assert len(found) == (words is not None)
    for text in found:
        assert re.search(words or "", text)
        assert str(pair) in text
        assert text.endswith(": replace it, then fastjmix reload")


def test_an_upstreams_authority(tmp_path: Path) -> None:
    ca_file, _ = authority(tmp_path)  # it is valid for a day
    listener = replace(LISTENER, upstreams=(replace(UPSTREAM, ca_file=ca_file),))
    with running(tmp_path, listener) as gateway:
        (text,) = warned(gateway)
        assert str(ca_file) in text


@pytest.mark.parametrize(
    ("secs", "words"),
    [(0, "0 s"), (119, "119 s"), (120, "2 minutes"), (7200, "2 hours"), (2e5, "2 days")],
)
def test_a_time_in_words(secs: float, words: str) -> None:
    assert in_words(secs) == words
