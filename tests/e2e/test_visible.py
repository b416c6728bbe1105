"""A whole gateway: somebody asks for a study that is still packed, on hold, rejected, or torn."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_studies import BUILDER, CONTEXTS, instance, send
from tests.support.dicom_peers import new_uid
from tests.support.gateway import Gateway, Gateways, Peer, Store, get, running, until
from tests.support.upstreams import Small

SLOW = "release_grace_secs = 0.2\nquiet_secs = 3600"


def query(own: Gateway, study: str, more: str = "") -> tuple[int, Any, bytes]:
    return get(f"{own.http}/jmix/api/jmix?studyInstanceUid={study}{more}")


def listed(own: Gateway, study: str) -> list[dict[str, Any]]:
    status, _, body = query(own, study, "&format=json")
    found: list[dict[str, Any]] = json.loads(body)["jmixEnvelopes"] if status == 200 else []
    return found


def readyz(own: Gateway) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(f"{own.http}/readyz")[2])
    return found


def gauge(own: Gateway, state: str) -> int:
    text = get(f"{own.http}/metrics")[2].decode()
    begin = f'fastjmix_envelopes{{state="{state}"}} '
    return next(int(float(s[len(begin) :])) for s in text.splitlines() if s.startswith(begin))


@pytest.mark.fault("F140")
def test_a_study_that_is_still_packed(start: Gateways) -> None:
    own = start(builder=SLOW)
    study = new_uid()
    with Peer(own.dicom_port) as peer:
        assert peer.associate(*CONTEXTS)[0] == 2
        uid, data = instance(study)
        assert peer.store(data, uid) == 0
        status, headers, body = query(own, study)
        assert (status, headers["X-Envelope-State"]) == (202, "building")
        assert headers["Retry-After"]
        assert json.loads(body)["state"] == "building"
        (entry,) = listed(own, study)
        assert entry["state"] == "building"
        assert get(f"{own.http}/jmix/api/jmix/{entry['id']}")[0] == 202
        assert gauge(own, "building") == 1
        assert query(own, study, "&whole=1")[0] == 202
        peer.release()
    status, headers, body = until(lambda: (a := query(own, study))[0] == 200 and a, "sealed")
    assert headers["X-Envelope-State"] == "outbox"
    assert body[:2] == b"PK"
    assert listed(own, study)[0]["id"] == entry["id"]


@pytest.mark.fault("F140")
def test_a_study_that_the_upstream_rejected(start: Gateways) -> None:
    """A restart, which sets all counters to 0, hides nothing of it."""
    study = new_uid()
    refusing = Small(lambda *_: (400, b'{"error": "unknown facility"}'))
    with refusing.open() as url:
        port = int(url.split(":")[2].split("/")[0])
        own = start(port, builder=BUILDER)
        send(own, instance(study))
        own.wait_for("envelope_rejected")
        until(lambda: own.envelopes("rejected"), "rejected")
        for _ in range(2):
            status, headers, body = query(own, study)
            assert (status, headers["X-Envelope-State"]) == (200, "rejected")
            assert body == own.envelopes("rejected")[0].read_bytes()
            (entry,) = listed(own, study)
            assert entry["state"] == "rejected"
            assert entry["reason"].startswith("HTTP 400: ")
            assert 0 <= entry["ageSecs"] < 600
            assert gauge(own, "rejected") == 1
            found = readyz(own)
            assert found["status"] == "ready"
            assert "1 envelope is in rejected/" in found["warnings"][0]
            assert own.stop() == 0
            own = start(port, builder=BUILDER)


@pytest.mark.fault("F140")
def test_an_envelope_that_the_disk_damaged_is_not_given(start: Gateways) -> None:
    study = new_uid()
    own = start(builder=BUILDER)
    send(own, instance(study, pixels=100_000))
    (archive,) = own.wait_sealed()
    assert own.stop() == 0
    with archive.open("r+b") as file:
        file.seek(archive.stat().st_size // 2)
        file.write(b"damage")
    with running(Store(own.spool.parent / "upstream")) as store:
        own = start(store.port, builder=BUILDER)
        own.wait_for("envelope_rejected")
        until(lambda: own.envelopes("rejected"), "rejected")
        status, headers, body = query(own, study)
        assert (status, headers["X-Envelope-State"]) == (409, "rejected")
        assert "damaged" in json.loads(body)["error"]
        assert "damaged" in listed(own, study)[0]["reason"]
        assert get(f"{own.http}/jmix/api/jmix/{archive.stem}/manifest")[0] == 409


@pytest.mark.fault("F141")
def test_all_parts_of_a_study_in_one_zip(tmp_path: Path, start: Gateways) -> None:
    """The gateway and the store give the same."""
    study = new_uid()
    with running(Store(tmp_path / "upstream")) as store:
        own = start(store.port, builder=BUILDER)
        for count in (1, 2, 3):
            send(own, instance(study, pixels=count * 1000))
            store.wait_held(count)
        own.wait_sent(3)
        expected = {path.stem: path.read_bytes() for path in own.envelopes("sent")}
        texts = []
        for base in (f"{own.http}/jmix", f"http://127.0.0.1:{store.port}"):
            status, headers, body = get(f"{base}/api/jmix?studyInstanceUid={study}&whole=1")
            assert (status, headers["X-Envelopes"]) == (200, "3")
            assert 'rel="collection"' in headers["Link"]
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                assert archive.testzip() is None
                names = archive.namelist()
                found = {name.split("-", 1)[1][:-4]: archive.read(name) for name in names}
            assert [name.split("-")[0] for name in names] == ["1", "2", "3"]
            assert found == expected
            texts.append(body)
        assert texts[0] == texts[1]


@pytest.mark.fault("F142")
def test_a_disk_near_its_marks_is_a_warning(start: Gateways) -> None:
    own = start(storage="soft_reserve_bytes = 1000000\nhard_reserve_bytes = 1000000")
    assert "warnings" not in readyz(own)
    soft = shutil.disk_usage(own.spool).free * 6 // 10
    near = start(storage=f"soft_reserve_bytes = {soft}\nhard_reserve_bytes = 1000000", name="near")
    (text,) = readyz(near)["warnings"]
    assert text.startswith("the storage fills up: ")
    assert "GB" in text
