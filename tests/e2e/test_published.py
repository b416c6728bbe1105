"""Profile jmix-1.0 end to end: DCMTK in, documents that the published schemas accept out."""

from __future__ import annotations

import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from fastjmix.failpoints import VARIABLE
from fastjmix.jmix import keys
from fastjmix.jmix.read.admission import check_envelope
from fastjmix.jmix.write import assertions, signing
from tests.support import published_rules, wire
from tests.support.gateway import Gateway, Peer, Store, get, holds, images, members, running, until

KEY = keys.new_signing_key()

BUILDER = """
profile = "jmix-1.0"
release_grace_secs = {grace}
classification = "confidential"
custom_tags = ["teaching"]
consent = {{ status = "granted", scope = ["treatment"], signed_on = 2026-01-31 }}
deid = {{ keys = ["PatientAddress"] }}
receivers = [{{ id = "org:example.archive", contact = {{ system = "phone", value = "+49 1" }} }}]
signing = {{ key_file = "../signing.pem", audit = true }}

[middleware.jmix_builder.options.sender]
id = "org:example.radiology"
name = "Radiology"
contact = "pacs@example.org"
assertion = {{ key_file = "../signing.pem", key_reference = "https://k", expires_secs = 60 }}
"""

CALLERS = """
[endpoints.dicom_receiver.options.aet_table]
ALL = {}
NO_HASHES = { skip_hashing = true }
NO_LIST = { skip_listing = true }
NEITHER = { skip_hashing = true, skip_listing = true, receivers = [{ id = "org:other" }] }
STREAM = { payload_hash = "stream" }
OLD = { profile = "harmony" }
"""


def begin(directory: Path, upstream: int, grace: float = 0.1, at: str = "") -> Gateway:
    """`at` names a fail point."""
    directory.mkdir(exist_ok=True)
    (directory / "signing.pem").write_bytes(KEY.pem())
    builder = BUILDER.format(grace=grace)
    return Gateway(directory, upstream, {VARIABLE: at}, endpoint=CALLERS, builder=builder)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Store) -> Iterator[Gateway]:
    with running(begin(tmp_path_factory.mktemp("gateway"), upstream.port)) as process:
        yield process


def documents(content: dict[str, bytes]) -> dict[str, Any]:
    """Those of an envelope, by their schema's name; each is valid."""
    found = {}
    for name in published_rules.RULES:
        data = content.get(f"{name}.json") or content.get(f"payload/{name}.json")
        if data is not None:
            found[name] = json.loads(data)
            published_rules.check(name, found[name])
    return found


def ct_files(directory: Path, study: str, count: int) -> dict[str, str]:
    """Real files of one study, two series; SOP Instance UID → Series Instance UID."""
    made = {}
    directory.mkdir()
    series = [generate_uid(), generate_uid()]
    for number in range(count):
        file = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
        file.StudyInstanceUID, file.SeriesInstanceUID = study, series[number % 2]
        file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        made[str(file.SOPInstanceUID)] = str(file.SeriesInstanceUID)
        file.save_as(directory / f"{number}.dcm")
    return made


@pytest.mark.parametrize("caller", ["ALL", "NO_HASHES", "NO_LIST", "NEITHER", "STREAM"])
def test_a_study_from_storescu(
    gateway: Gateway, upstream: Store, tmp_path: Path, caller: str
) -> None:
    study = generate_uid()
    sent = ct_files(tmp_path / "in", study, 3)
    subprocess.run(
        ["storescu", "+sd", "-aec", "JMIX_RECEIVER", "-aet", caller, "127.0.0.1",
         str(gateway.dicom_port), str(tmp_path / "in")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    held = until(lambda: [h for h in upstream.held() if study in json.dumps(h)], "the envelope")
    archive = tmp_path / "envelope.zip"
    archive.write_bytes(upstream.archive(held[0]["id"]))
    content = members(archive)
    hashed, listed = caller not in ("NO_HASHES", "NEITHER"), caller not in ("NO_LIST", "NEITHER")
    assert [name for name in content if not name.endswith(".dcm")] == [
        "manifest.json", "manifest.jws", "audit.json", "payload/metadata.json",
        *(["payload/files.json"] if listed else []),
    ]  # fmt: skip
    assert {n for n in content if n.endswith(".dcm")} == {f"payload/dicom/{u}.dcm" for u in sent}

    found = documents(content)
    manifest, metadata = found["manifest"], found["metadata"]
    assert manifest["id"] == metadata["id"] == held[0]["id"]
    assert ("payload_hash" in manifest["security"]) == hashed
    assert manifest["security"]["classification"] == "confidential"
    assert manifest["extensions"] == {
        "custom_tags": ["teaching"],
        "consent": {"status": "granted", "scope": ["treatment"], "signed_on": "2026-01-31"},
        "deid": {"keys": ["PatientAddress"]},
    }
    receiver = "org:other" if caller == "NEITHER" else "org:example.archive"
    assert [one["id"] for one in manifest["receiver"]] == [receiver]
    assert metadata["patient"] == {
        "id": "1CT1", "name": {"family": "CompressedSamples", "given": ["CT1"],
                               "text": "CompressedSamples^CT1"}, "sex": "O",
    }  # fmt: skip
    assert metadata["studies"]["study_uid"] == study
    series_of = {i["sop_instance_uid"]: s["series_uid"] for s in metadata["studies"]["series"]
            for i in s["instances"]}  # fmt: skip
    assert series_of == sent

    signing.verify_manifest(content["manifest.jws"], content["manifest.json"], KEY.public)
    sealed_at = datetime.fromisoformat(manifest["timestamp"]).timestamp()
    assert [one.why for one in assertions.verify_assertions(manifest, sealed_at)] == [""]
    assert [one.why for one in assertions.verify_audit(found["audit"], manifest["id"])] == [""]
    with archive.open("rb") as file:
        assert check_envelope(file, verify_hashes=True).studies == (study,)
    for command in (["unzip", "-tqq"], ["7z", "t"]):
        subprocess.run([*command, str(archive)], check=True, capture_output=True, timeout=60)

    status, _, body = get(f"{gateway.http}/jmix/api/jmix?studyInstanceUid={study}")
    assert status == 200
    with zipfile.ZipFile(io.BytesIO(body)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == content


def test_a_caller_with_the_other_profile(gateway: Gateway) -> None:
    study = generate_uid()
    with Peer(gateway.dicom_port) as peer:
        peer.associate(calling=b"OLD")
        assert peer.store(wire.data_set(study=study)) == 0
        peer.release()
    archive = until(lambda: of_study(gateway, study), "the envelope")
    manifest = json.loads(members(archive)["manifest.json"])
    assert (manifest["version"], manifest["type"]) == (1, "envelope")
    assert "sender" not in manifest


def of_study(gateway: Gateway, study: str) -> Path | None:
    for state in ("sent", "outbox"):
        for archive in gateway.envelopes(state):
            if study in archive.with_suffix(".json").read_text():
                return archive
    return None


def test_the_same_uid_with_other_bytes_and_uids_that_are_none(gateway: Gateway) -> None:
    study = generate_uid()
    sent = [("1.2.3.9", 1), ("1.2.3.9", 2), ("..", 3), ("1..2", 4), ("..", 5)]
    with Peer(gateway.dicom_port) as peer:
        peer.associate(calling=b"ALL")
        for uid, number in sent:
            assert peer.store(wire.data_set(uid, study=study, number=number), uid) == 0
        peer.release()
    archive = until(lambda: of_study(gateway, study), "the envelope")
    content = members(archive)
    assert [name for name in content if name.endswith(".dcm")] == [
        f"payload/dicom/{name}.dcm"
        for name in ("1.2.3.9", "1.2.3.9_2", "instance_1_3", "instance_1_4", "instance_1_5")
    ]
    (series,) = documents(content)["metadata"]["studies"]["series"]
    for (uid, number), reported in zip(sent, series["instances"], strict=True):
        assert (reported["sop_instance_uid"], reported["instance_number"]) == (uid, number)
        data = content[f"payload/{reported['file']}"]
        assert data.endswith(wire.data_set(uid, study=study, number=number))
        assert reported.get("conflict", False) == (number in (2, 5))


@pytest.mark.parametrize("caller", [b"ALL", b"STREAM"])
def test_a_draft_that_a_kill_left_is_sealed_the_same(tmp_path: Path, caller: bytes) -> None:
    """Parties, names and signatures come out of draft.json and the archive, in another process."""
    study = generate_uid()
    sent = [("1.2.3.9", 1), ("..", 2), ("1.2.3.9", 3)]
    with running(begin(tmp_path / "own", 9, grace=600)) as own, Peer(own.dicom_port) as peer:
        peer.associate(calling=caller)
        for uid, number in sent:
            assert peer.store(wire.data_set(uid, study=study, number=number), uid) == 0
        (recipe,) = own.spool.glob("building/*/draft.json")
        assert KEY.pem().splitlines()[1] not in recipe.read_bytes()
        own.child.kill()
        own.child.wait()
    with running(begin(tmp_path / "own", 9)) as own:
        own.wait_for("envelope_recovered")
        recovered = own.envelopes("outbox")[0]
        with Peer(own.dicom_port) as peer:  # the same again, with nobody dying
            peer.associate(calling=caller)
            for uid, number in sent:
                assert peer.store(wire.data_set(uid, study=study, number=number), uid) == 0
            peer.release()
        own.wait_for("envelope_sealed")
        (clean,) = set(own.envelopes("outbox")) - {recovered}
    contents = [members(archive) for archive in (recovered, clean)]
    assert list(contents[0]) == list(contents[1])
    assert images(recovered) == images(clean)
    for content in contents:
        signing.verify_manifest(content["manifest.jws"], content["manifest.json"], KEY.public)
    for archive in (recovered, clean):
        with archive.open("rb") as file:
            check_envelope(file, verify_hashes=True)
    first, second = ([masked(found) for found in documents(c).values()] for c in contents)
    assert first == second


@pytest.mark.parametrize("caller", [b"ALL", b"STREAM"])
def test_a_seal_that_had_its_ticket_is_repeated_to_the_byte(tmp_path: Path, caller: bytes) -> None:
    """The time is the ticket's, and Ed25519 has no random part: signatures are the same too."""
    with running(begin(tmp_path / "own", 9, at="spool.renamed:stop:3")) as own:
        with Peer(own.dicom_port) as peer:
            peer.associate(calling=caller)
            for number in (1, 2):
                assert peer.store(wire.data_set(number=number)) == 0
            peer.release()
        own.wait_for("failpoint_reached")
        (draft,) = own.spool.glob("building/*/envelope.zip")
        sealed = draft.read_bytes()
        own.child.kill()
        own.child.wait()
    with running(begin(tmp_path / "own", 9)) as own:
        own.wait_for("envelope_recovered")
        (recovered,) = own.envelopes("outbox")
        assert recovered.stem == draft.parent.name
        assert recovered.read_bytes() == sealed


def test_the_key_is_only_where_envelopes_are_sealed(gateway: Gateway) -> None:
    gateway.wait_for("http_listening")
    processes = {**gateway.children(), "supervisor": gateway.child.pid}
    forms = (KEY._key.private_bytes_raw(), KEY.pem().splitlines()[1])
    holders = {name for name, pid in processes.items() if any(holds(pid, f) for f in forms)}
    assert holders == {name for name in processes if name.startswith("packer-")}


def masked(document: Any) -> Any:
    """Without ids, times, and what is computed from them."""
    differing = ("id", "timestamp", "expires_at", "signature", "payload_hash")
    if isinstance(document, dict):
        kept = {k: masked(v) for k, v in document.items() if k not in differing}
        if document.get("file") == "metadata.json":
            kept.pop("hash")
        return kept
    return [masked(one) for one in document] if isinstance(document, list) else document


def test_a_key_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    """It is the operator's fault, not the disk's: the intake goes on, nothing is lost."""
    study = generate_uid()
    with running(begin(tmp_path / "own", 9, grace=600)) as own, Peer(own.dicom_port) as peer:
        peer.associate(calling=b"ALL")
        assert peer.store(wire.data_set(study=study)) == 0
        own.child.kill()
        own.child.wait()
    recipe = next((tmp_path / "own" / "spool").glob("building/*/draft.json"))
    result = json.loads(recipe.read_text())
    key = tmp_path / "elsewhere.pem"
    result["published"]["signing"]["key_file"] = str(key)
    recipe.write_text(json.dumps(result))
    with running(begin(tmp_path / "own", 9)) as own:
        assert "cannot be read" in own.wait_for("recovery_failed.*")[0]
        with Peer(own.dicom_port) as peer:
            peer.associate(calling=b"ALL")
            assert peer.store(wire.data_set(study=generate_uid())) == 0
            peer.release()
        own.wait_for("envelope_sealed")
        key.write_bytes(KEY.pem())
        own.wait_for("envelope_recovered")
        assert len(own.envelopes("outbox")) == 2
        assert get(f"{own.http}/readyz")[0] == 200
