"""Studies through a whole gateway: metadata of their envelopes, and answers to queries."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from fastjmix.httpd.study_query import list_headers
from tests.support import wire
from tests.support.dicom_peers import archives, new_uid
from tests.support.gateway import Gateway, Peer, Store, get, members, run_command, running, until

BUILDER = "release_grace_secs = 0.2"
SR = "1.2.840.10008.5.1.4.1.1.88.67"
CONTEXTS = (wire.context(1, wire.CT, wire.EXPLICIT), wire.context(3, SR, wire.EXPLICIT))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with running(Gateway(directory, 9, builder=BUILDER)) as process:
        yield process


def instance(
    study: str,
    *,
    uid: str = "",
    series: str = "",
    sop_class: str = wire.CT,
    modality: str = "CT",
    name: str = "SYN^TH",
    patient: str = "P1",
    date: str = "20260101",
    number: int = 1,
    pixels: int = 64,
) -> tuple[str, bytes]:
    """Returns (SOP Instance UID, data set)."""
    uid = uid or new_uid()
    parts = [
        (0x00080016, b"UI", sop_class),
        (0x00080018, b"UI", uid),
        (0x00080020, b"DA", date),
        (0x00080060, b"CS", modality),
        (0x00100010, b"PN", name),
        (0x00100020, b"LO", patient),
        (0x0020000D, b"UI", study),
        (0x0020000E, b"UI", series or new_uid()),
        (0x00200011, b"IS", "4"),
        (0x00200013, b"IS", str(number)),
    ]
    data = b"".join(wire.element(tag, vr, value.encode()) for tag, vr, value in parts)
    if pixels:
        data += wire.element(0x7FE00010, b"OW", bytes(pixels))
    return uid, data


def send(
    own: Gateway, *instances: tuple[str, bytes], calling: str = "", sop_class: str = wire.CT
) -> None:
    """Sends instances in one association; without `calling`, its calling AE title is a new one."""
    with Peer(own.dicom_port) as peer:
        title = calling or f"AE{new_uid()[-12:]}"
        assert peer.associate(*CONTEXTS, calling=title.encode())[0] == 2
        for uid, data in instances:
            report = SR.encode() in data[:200]
            options: dict[str, Any] = {"number": 3, "sop_class": SR} if report else {}
            assert peer.store(data, uid, **options) == 0
        peer.release()


def metadata_of(archive: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(members(archive)["payload/metadata.json"])
    return found


def sealed(own: Gateway, study: str, count: int = 1) -> list[Path]:
    until(lambda: len(archives(own, study)) >= count, f"{count} envelopes of {study}")
    return archives(own, study)


def metric(own: Gateway, name: str) -> int:
    text = get(f"{own.http}/metrics")[2].decode()
    return int(float(next(s.split()[1] for s in text.splitlines() if s.startswith(f"{name} "))))


# -- metadata ------------------------------------------------------------------------------------


@pytest.mark.fault("F100")
@pytest.mark.parametrize("same_series", [False, True])
def test_two_patients_under_one_study_are_reported(gateway: Gateway, same_series: bool) -> None:
    before = metric(gateway, "fastjmix_instances_of_another_patient_total")
    study, series = new_uid(), new_uid() if same_series else ""
    send(
        gateway,
        instance(study, series=series, name="ALPHA^ONE", patient="A1"),
        instance(study, series=series, name="BETA^TWO", patient="B2"),
        instance(study, series=series, name="BETA^TWO", patient="B2"),
    )
    (archive,) = sealed(gateway, study)
    found = metadata_of(archive)["studies"][study]
    assert found["patient_name"] == "ALPHA^ONE"
    assert found["patient_conflict"] is True
    assert [one["patient_name"] for one in found["patients"]] == ["ALPHA^ONE", "BETA^TWO"]
    assert [one["instance_count"] for one in found["patients"]] == [1, 2]
    gateway.wait_for(rf"patient_conflict .*{study}")
    lines = [one for one in gateway.lines if study in one and "patient_conflict" in one]
    assert len(lines) == 1
    assert "ALPHA" not in gateway.log()
    assert "BETA" not in gateway.log()
    gateway.wait_for(rf"envelope_sealed .*{archive.stem}.*of_another_patient=2")
    assert metric(gateway, "fastjmix_instances_of_another_patient_total") == before + 2
    assert run_command("envelope", "verify", archive).returncode == 0


@pytest.mark.fault("F100")
@pytest.mark.parametrize("report_first", [True, False])
def test_a_dose_report_describes_no_study_of_images(gateway: Gateway, report_first: bool) -> None:
    study, series = new_uid(), new_uid()
    report = instance(study, sop_class=SR, modality="SR", name="", patient="", date="", pixels=0)
    images = [instance(study, series=series, number=n) for n in (9, 7)]
    send(gateway, *([report, *images] if report_first else [*images, report]))
    (archive,) = sealed(gateway, study)
    found = metadata_of(archive)["studies"][study]
    shown = found["modality"], found["patient_name"], found["study_date"]
    assert shown == ("CT", "SYN^TH", "20260101")
    assert "patient_conflict" not in found
    series_of = {one["modality"]: one for one in found["series"]}
    # The files are in order of arrival, not of the instance numbers.
    assert [one["file"][-7:-4] for one in series_of["CT"]["instances"]] == ["001", "002"]
    assert [one["instance_number"] for one in series_of["CT"]["instances"]] == [9, 7]
    assert series_of["CT"]["series_number"] == 4


@pytest.mark.fault("F100")
def test_a_crash_changes_nothing_of_the_description(tmp_path: Path) -> None:
    study, series = new_uid(), new_uid()
    kill = {"FASTJMIX_FAILPOINT": "packer.granted:kill:3"}
    with running(Gateway(tmp_path, 9, builder=BUILDER, env=kill)) as own:
        send(
            own,
            instance(study, sop_class=SR, modality="SR", name="", patient="", date="", pixels=0),
            instance(study, series=series, name="ALPHA^ONE", patient="A1"),
            instance(study, series=series, name="BETA^TWO", patient="B2"),
        )
        (archive,) = sealed(own, study)
        found = metadata_of(archive)["studies"][study]
    assert (found["modality"], found["patient_name"]) == ("CT", "ALPHA^ONE")
    assert [one["instance_count"] for one in found["patients"]] == [2, 1]


@pytest.mark.fault("F100")
def test_control_characters_reach_no_document(gateway: Gateway) -> None:
    study = new_uid()
    send(gateway, instance(study, name="SYN\0\x1b\nTH", patient="P\x7f1", modality="C\0T"))
    (archive,) = sealed(gateway, study)
    found = members(archive)
    for name in ("manifest.json", "payload/metadata.json"):
        text = found[name]
        assert not any(byte < 0x20 or byte == 0x7F for byte in text)
        assert b"\\u00" not in text
        assert b"\\n" not in text


@pytest.mark.fault("F100")
def test_a_uid_with_a_control_character_makes_no_envelope(tmp_path: Path) -> None:
    uid, data = instance(new_uid())
    meta = wire.element(0x00020010, b"UI", wire.EXPLICIT.encode())
    meta = wire.element(0x00020003, b"UI", uid.encode()) + meta
    meta = wire.element(0x00020002, b"UI", b"1.2\n3") + meta
    length = wire.element(0x00020000, b"UL", len(meta).to_bytes(4, "little"))
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + length + meta + data)
    done = run_command("envelope", "build", tmp_path / "a.dcm", "-o", tmp_path / "a.zip")
    assert done.returncode == 1
    assert "control character" in done.stderr
    assert not (tmp_path / "a.zip").exists()


# -- parts ---------------------------------------------------------------------------------------


def check_parts(base: str, study: str, count: int) -> None:
    """Checks that the answer to a query counts the envelopes, and links to their list."""
    url = f"{base}/api/jmix?studyInstanceUid={study}"
    status, headers, body = get(url)
    assert (status, headers["Content-Type"]) == (200, "application/zip")
    if count == 1:
        assert "X-Envelopes" not in headers
        assert "Link" not in headers
        return
    assert headers["X-Envelopes"] == str(count)
    target, *about = headers["Link"].split("; ")
    assert about == ['rel="collection"', 'type="application/json"']
    for accept in ("*/*", "application/json"):
        listed = get(urljoin(url, target.strip("<>")), Accept=accept)[2]
        assert len(json.loads(listed)["jmixEnvelopes"]) == count
    partial, shown, _ = get(url, Range="bytes=0-9")
    assert (partial, shown["X-Envelopes"]) == (206, str(count))
    unchanged, shown, _ = get(url, **{"If-None-Match": headers["ETag"]})
    assert (unchanged, shown["X-Envelopes"]) == (304, str(count))
    request = urllib.request.Request(url, method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["X-Envelopes"] == str(count)
    assert body[:2] == b"PK"


@pytest.mark.fault("F103")
def test_an_answer_with_one_of_several_says_so(gateway: Gateway) -> None:
    """A late instance makes one more envelope."""
    study = new_uid()
    for count in (1, 2, 3):
        send(gateway, instance(study))
        sealed(gateway, study, count)
        check_parts(f"{gateway.http}/jmix", study, count)


@pytest.mark.fault("F103")
def test_the_store_says_so_too(tmp_path: Path) -> None:
    """The store says so of full envelopes that were delivered."""
    study = new_uid()
    with (
        running(Store(tmp_path / "upstream")) as store,
        running(
            Gateway(
                tmp_path / "gateway",
                store.port,
                builder=f"{BUILDER}\nmax_envelope_instances = 1",
            )
        ) as own,
    ):
        send(own, instance(study), instance(study))
        store.wait_held(2)
        check_parts(f"http://127.0.0.1:{store.port}", study, 2)
        check_parts(f"{own.http}/jmix", study, 2)


@pytest.mark.fault("F103")
@pytest.mark.parametrize("query", ["format=xml", "format=", "format=json&format=zip"])
def test_a_format_that_is_none_is_refused(gateway: Gateway, query: str) -> None:
    status, _, body = get(f"{gateway.http}/jmix/api/jmix?studyInstanceUid=1.2&{query}")
    assert status == 400
    assert "format" in json.loads(body)["error"]


@pytest.mark.fault("F103")
@pytest.mark.parametrize("study", ['1>"; a', "1\r\nX-Evil: 1", "ü &x=1", "\udcff"])
def test_no_study_writes_headers(study: str) -> None:
    link = list_headers("/jmix/api/jmix", study, 2)["Link"]
    assert link.isascii()
    assert link.isprintable()
    url = link.removeprefix("</jmix/api/jmix?").partition(">")[0]
    assert url.count("&") == 1
