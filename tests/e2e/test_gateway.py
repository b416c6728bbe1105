"""End to end: real senders in, envelopes at a real upstream out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

from fastjmix.packer.seal_schedule import OPEN_MAX
from fastjmix.tools import send
from tests.support import wire
from tests.support.acceptors import data_set_bytes
from tests.support.gateway import (
    PATIENCE,
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    images,
    images_in,
    members,
    running,
    until,
)

DEAD_PORT = 9  # discard: nothing listens there


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Store) -> Iterator[Gateway]:
    """A gateway with the defaults; each test sends studies of its own."""
    with running(Gateway(tmp_path_factory.mktemp("gateway"), upstream.port)) as process:
        yield process


def study_files(
    directory: Path, count: int, *, rows: int = 32, study: str = ""
) -> dict[str, bytes]:
    """Writes Part 10 files of one study, two series; SOP Instance UID → data set bytes."""
    directory.mkdir(parents=True, exist_ok=True)
    study = study or generate_uid()
    series = [generate_uid(), generate_uid()]
    sent: dict[str, bytes] = {}
    for number in range(count):
        instance = generate_uid()
        data = wire.data_set(
            instance,
            study=study,
            series=series[number % 2],
            number=number,
            pixels=os.urandom(rows * 64),
        )
        meta = wire.element(0x00020001, b"OB", b"\0\1") + b"".join(
            wire.element(tag, b"UI", value.encode())
            for tag, value in (
                (0x00020002, wire.CT),
                (0x00020003, instance),
                (0x00020010, wire.EXPLICIT),
            )
        )
        meta = wire.element(0x00020000, b"UL", struct.pack("<L", len(meta))) + meta
        (directory / f"i{number:04d}.dcm").write_bytes(b"\0" * 128 + b"DICM" + meta + data)
        sent[instance] = data
    return sent


def study_of(files: dict[str, bytes]) -> str:
    data = next(iter(files.values()))
    head = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=True)
    return str(head.StudyInstanceUID)


def tool(*command: str, nodelay: bool = False) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "TCP_NODELAY": "1"} if nodelay else {**os.environ}
    if not nodelay:
        env.pop("TCP_NODELAY", None)
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


def delivered(upstream: Store, study: str, count: int) -> dict[str, bytes]:
    """Every instance of a study at the upstream, once `count` of them are there."""
    found: dict[str, bytes] = {}

    def all_there() -> bool:
        found.clear()
        for held in upstream.held():
            if study in json.dumps(held):
                with zipfile.ZipFile(io.BytesIO(upstream.archive(held["id"]))) as opened:
                    found.update(images_in({n: opened.read(n) for n in opened.namelist()}))
        return len(found) >= count

    until(all_there, f"{count} instances of {study} at the upstream")
    return found


# -- senders -------------------------------------------------------------------------------------


def test_echoscu(gateway: Gateway) -> None:
    done = tool("echoscu", "-v", "-aec", "JMIX_RECEIVER", "127.0.0.1", str(gateway.dicom_port))
    assert done.returncode == 0, done.stderr
    assert "Success" in done.stderr


def test_storescu_one_file(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    sent = study_files(tmp_path, 1)
    done = tool(
        "storescu", "-aec", "JMIX_RECEIVER", "-aet", "MY_MODALITY", "127.0.0.1",
        str(gateway.dicom_port), str(tmp_path / "i0000.dcm"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert delivered(upstream, study_of(sent), 1) == sent


def test_storescu_directory(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    sent = study_files(tmp_path / "a" / "b", 12)
    done = tool(
        "storescu", "-aec", "JMIX_RECEIVER", "-aet", "MY_MODALITY",
        "--scan-directories", "--recurse", "127.0.0.1", str(gateway.dicom_port), str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert delivered(upstream, study_of(sent), 12) == sent


def test_eight_storescu_at_once_for_one_study(
    gateway: Gateway, upstream: Store, tmp_path: Path
) -> None:
    study = generate_uid()
    sent: dict[str, bytes] = {}
    for part in range(8):
        sent |= study_files(tmp_path / str(part), 25, rows=512, study=study)
    with ThreadPoolExecutor(8) as pool:
        done = list(
            pool.map(
                lambda part: tool(
                    "storescu", "+sd", "-aec", "JMIX_RECEIVER", "127.0.0.1",
                    str(gateway.dicom_port), str(tmp_path / str(part)),
                ),
                range(8),
            )
        )  # fmt: skip
    assert [d.returncode for d in done] == [0] * 8, [d.stderr for d in done]
    assert delivered(upstream, study, 200) == sent


def test_one_association_per_image_makes_one_envelope(
    gateway: Gateway, upstream: Store, tmp_path: Path
) -> None:
    """Associations that follow each other within release_grace_secs feed the same envelope."""
    sent = study_files(tmp_path, 10)
    for file in sorted(tmp_path.glob("*.dcm")):
        done = tool(
            "storescu", "-aec", "JMIX_RECEIVER", "127.0.0.1", str(gateway.dicom_port), str(file)
        )
        assert done.returncode == 0, done.stderr
    assert delivered(upstream, study_of(sent), 10) == sent
    assert sum(study_of(sent) in json.dumps(h) for h in upstream.held()) == 1


def test_nagle_costs_nothing(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    """A sender with Nagle's algorithm on waits 40 ms an image at other receivers: 600 need 24 s."""
    sent = study_files(tmp_path, 600, rows=4)
    began = time.monotonic()
    done = tool(
        "storescu",
        "+sd",
        "-aec",
        "JMIX_RECEIVER",
        "127.0.0.1",
        str(gateway.dicom_port),
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 24  # not a benchmark: what delayed ACKs alone would cost
    assert len(delivered(upstream, study_of(sent), 600)) == 600


def test_dcmsend(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    sent = study_files(tmp_path, 5)
    done = tool(
        "dcmsend",
        "-aec",
        "JMIX_RECEIVER",
        "+sd",
        "127.0.0.1",
        str(gateway.dicom_port),
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert delivered(upstream, study_of(sent), 5) == sent


def test_pynetdicom_scu(gateway: Gateway, upstream: Store) -> None:
    instance, study = generate_uid(), generate_uid()
    peer = AE("PYNETDICOM")
    peer.add_requested_context(Verification)
    peer.add_requested_context(CTImageStorage, wire.EXPLICIT)
    data = wire.data_set(instance, study=study, pixels=b"1234")
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(wire.EXPLICIT)
    for _ in range(3):
        # pynetdicom's reactor can take a response for itself ("unexpected C-STORE service
        # message"); it then gets another chance, as its users give it.
        peer.dimse_timeout = 5
        association = peer.associate("127.0.0.1", gateway.dicom_port, ae_title="JMIX_RECEIVER")
        assert association.is_established
        answers = [association.send_c_echo(), association.send_c_store(dataset)]
        association.release() if association.is_established else association.abort()
        if all("Status" in answer for answer in answers):
            break
    assert [answer.Status for answer in answers] == [0, 0]
    assert list(delivered(upstream, study, 1)) == [instance]


def test_reference_curl_commands(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    sent = study_files(tmp_path, 3)
    tool(
        "storescu",
        "+sd",
        "-aec",
        "JMIX_RECEIVER",
        "127.0.0.1",
        str(gateway.dicom_port),
        str(tmp_path),
    )
    study = study_of(sent)
    delivered(upstream, study, 3)
    base = f"{gateway.http}/jmix/api/jmix"

    def served() -> bool:
        return (
            tool(
                "curl", "-sf", f"{base}?studyInstanceUid={study}", "-o", str(tmp_path / "q.zip")
            ).returncode
            == 0
        )

    until(served, "the study at the HTTP listener")
    assert images(tmp_path / "q.zip") == sent
    listing = tool(
        "curl", "-s", "-H", "Accept: application/json", f"{base}?studyInstanceUid={study}"
    )
    envelope_id = json.loads(listing.stdout)["jmixEnvelopes"][0]["id"]
    manifest = json.loads(tool("curl", "-s", f"{base}/{envelope_id}/manifest").stdout)
    assert manifest["id"] == envelope_id
    done = tool(
        "curl", "-s", f"{base}/{envelope_id}", "-H", "Accept: application/zip",
        "-o", str(tmp_path / "envelope.zip"),
    )  # fmt: skip
    assert done.returncode == 0
    assert images(tmp_path / "envelope.zip") == sent
    assert (
        tool(
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            f"{base}?studyInstanceUid=1.2.3.test",
        ).stdout
        == "404"
    )


# -- what is in an envelope ----------------------------------------------------------------------


def test_harmony_envelope(gateway: Gateway, upstream: Store, tmp_path: Path) -> None:
    sent = study_files(tmp_path / "in", 4)
    tool(
        "storescu",
        "+sd",
        "-aec",
        "JMIX_RECEIVER",
        "-aet",
        "CT_ONE",
        "127.0.0.1",
        str(gateway.dicom_port),
        str(tmp_path / "in"),
    )
    study = study_of(sent)
    delivered(upstream, study, 4)
    held = next(h for h in upstream.held() if study in json.dumps(h))
    archive = tmp_path / "e.zip"
    archive.write_bytes(upstream.archive(held["id"]))
    content = members(archive)
    assert list(content)[:2] == ["manifest.json", "payload/metadata.json"]
    manifest, metadata = (
        json.loads(content["manifest.json"]),
        json.loads(content["payload/metadata.json"]),
    )
    assert (manifest["id"], manifest["type"], manifest["version"]) == (held["id"], "envelope", 1)
    assert manifest["content"] == {"type": "directory", "path": "payload"}
    assert metadata["id"] == held["id"]
    described = metadata["studies"][study]
    assert (described["study_uid"], described["study_date"], described["modality"]) == (
        study,
        "20240115",
        "CT",
    )
    assert described["patient_name"] == "CANARY^NAME"
    assert [s["instance_count"] for s in described["series"]] == [2, 2]
    listed = {f["path"]: f for f in manifest["files"]}
    for name, data in content.items():
        if name != "manifest.json":
            assert listed[name]["size_bytes"] == len(data)
            assert listed[name]["hash"] == "sha256:" + hashlib.sha256(data).hexdigest()
    assert manifest["security"]["payload_hash"].startswith("sha256:")
    assert b"CANARY" not in content["manifest.json"]
    assert tool("unzip", "-tqq", str(archive)).returncode == 0
    assert tool("7z", "t", str(archive)).returncode == 0
    file = pydicom.dcmread(archive_member(content))
    assert file.file_meta.SourceApplicationEntityTitle == "CT_ONE"
    assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID


def archive_member(content: dict[str, bytes]) -> io.BytesIO:
    return io.BytesIO(content["payload/series_1/image_001.dcm"])


@pytest.mark.parametrize("digest", ["sha256", "blake3"])
def test_digest_and_skips(start: Gateways, tmp_path: Path, digest: str) -> None:
    own = start(
        builder=f'''
digest = "{digest}"
skip_listing = true
release_grace_secs = 0.1
durability = "page-cache"
''',
    )
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0
        peer.release()
    manifest = json.loads(members(own.wait_sealed()[0])["manifest.json"])
    assert "files" not in manifest
    assert manifest["security"]["payload_hash"].startswith(digest + ":")


def test_skip_hashing(start: Gateways) -> None:
    own = start(builder="skip_hashing = true\nrelease_grace_secs = 0.1")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0
        peer.release()
    manifest = json.loads(members(own.wait_sealed()[0])["manifest.json"])
    assert "security" not in manifest
    assert all("hash" not in f for f in manifest["files"])
    assert len(manifest["files"]) == 2


@pytest.mark.fault("F54")
def test_an_instance_larger_than_its_lane(start: Gateways) -> None:
    own = start(fastjmix="lane_bytes = 1048576", builder="release_grace_secs = 0.1")
    big = wire.data_set("1.2.3.5", pixels=os.urandom(9 << 20))
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(big, "1.2.3.5") == 0
        assert peer.store(wire.data_set(), "1.2.3.9") == 0
        assert peer.store(big, "1.2.3.5") == 0  # again: the same bytes, kept once
        peer.release()
    archive = own.wait_sealed()[0]
    assert images(archive) == {"1.2.3.5": big, "1.2.3.9": wire.data_set()}
    assert not list((own.spool / "building").iterdir())


@pytest.mark.fault("F53")
def test_the_same_uid_with_other_bytes_is_kept_twice(gateway: Gateway) -> None:
    study = generate_uid()
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set(study=study, number=1)) == 0
        assert peer.store(wire.data_set(study=study, number=2)) == 0
        peer.release()
    archive = until(lambda: find_study(gateway, study), "the envelope")
    content = members(archive)
    assert len([n for n in content if n.endswith(".dcm")]) == 2
    assert b'"conflict":true' in content["payload/metadata.json"]


def find_study(gateway: Gateway, study: str) -> Path | None:
    """Once it was delivered: in outbox/ it could be moved while it is read."""
    for archive in gateway.envelopes("sent"):
        if study in archive.with_suffix(".json").read_text():
            return archive
    return None


def test_two_studies_in_one_association_are_two_envelopes(gateway: Gateway) -> None:
    studies = [generate_uid(), generate_uid()]
    with Peer(gateway.dicom_port) as peer:
        peer.associate()
        for number, study in enumerate(studies * 2):
            assert peer.store(wire.data_set(f"1.2.3.{number}", study=study), f"1.2.3.{number}") == 0
        peer.release()
    for study in studies:
        archive = until(partial(find_study, gateway, study), "the envelope")
        assert len([n for n in members(archive) if n.endswith(".dcm")]) == 2


@pytest.mark.fault("F50")
def test_quiet_secs_seals_without_a_release(start: Gateways) -> None:
    own = start(builder="quiet_secs = 0.3\nrelease_grace_secs = 60")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0
        first = own.wait_sealed()[0]
        assert peer.store(wire.data_set("1.2.3.10"), "1.2.3.10") == 0  # late: a new envelope
        own.wait_sealed(2)
        assert set(images(first)) == {"1.2.3.9"}


def test_max_envelope_instances_seals(start: Gateways) -> None:
    own = start(builder="max_envelope_instances = 3\nrelease_grace_secs = 0.1")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number in range(7):
            assert peer.store(wire.data_set(f"1.2.{number}"), f"1.2.{number}") == 0
        peer.release()
    sizes = sorted(len(images(e)) for e in own.wait_sealed(3))
    assert sizes == [1, 3, 3]


def test_the_envelope_that_was_quiet_longest_makes_place(start: Gateways) -> None:
    """Studies that nobody ends cannot take all descriptors and memory."""
    own = start(
        fastjmix="packers = 1", builder='release_grace_secs = 60\ndurability = "page-cache"'
    )
    building = own.spool / "building"
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number in range(OPEN_MAX + 1):
            assert not own.envelopes("outbox")
            uid = f"1.2.{number}.1"
            assert peer.store(wire.data_set(uid, study=f"1.2.{number}"), uid) == 0
        assert len(list(building.glob("*/envelope.zip"))) == OPEN_MAX
    (archive,) = own.envelopes("outbox")
    assert set(images(archive)) == {"1.2.0.1"}


@pytest.mark.fault("S39")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_largest_envelope_makes_place_for_instances(start: Gateways, off: int) -> None:
    """Studies that are kept open, each with many instances, cannot take all memory."""
    few = "from fastjmix.packer import seal_schedule; seal_schedule.HELD_MAX = 20"
    own = start(
        fastjmix="packers = 1", builder='release_grace_secs = 60\ndurability = "page-cache"',
        first=few,
    )  # fmt: skip
    studies = ["1.2.1"] * 7 + ["1.2.2"] * 11 + ["1.2.3"] * (2 + off)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for number, study in enumerate([*studies, "1.2.2"]):
            uid = f"{study}.{number}"
            assert peer.store(wire.data_set(uid, study=study), uid) == 0
        if off >= 0:
            (archive,) = own.wait_sealed(1)
            own.wait_for('envelope_sealed .* why="too many instances are held"')
            assert {uid.rpartition(".")[0] for uid in images(archive)} == {"1.2.2"}
        peer.release()
    assert own.stop() == 0
    sizes = sorted(len(images(e)) for e in own.envelopes("outbox"))
    # The one that was one too many, or comes next, is in the largest, or begins the study again.
    assert sizes == ([1, 7, 12] if off < 0 else [2, 7, 12] if off == 0 else [1, 3, 7, 11])


# -- association policy --------------------------------------------------------------------------


@pytest.mark.fault("S15")
def test_the_called_ae_title_must_be_ours(gateway: Gateway, start: Gateways) -> None:
    with Peer(gateway.dicom_port) as peer:
        assert peer.associate(called=b"SOMEONE") == (3, b"\0\1\1\7")
        assert peer.closed()
    own = start(endpoint="accept_any_called_aet = true")
    with Peer(own.dicom_port) as peer:
        assert peer.associate(called=b"SOMEONE")[0] == 2


@pytest.mark.fault("S15")
def test_aet_table(start: Gateways) -> None:
    own = start(
        builder="release_grace_secs = 0.1",
        endpoint="""
[endpoints.dicom_receiver.options.aet_table]
MODALITY_CT = { ae_title = "MODALITY_CT", host = "ct.local", port = 104, skip_hashing = true }
MODALITY_MR = { ae_title = "MODALITY_MR", max_associations = 1 }
""",
    )
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"STRANGER") == (3, b"\0\1\1\3")
    own.wait_for("association_rejected calling_ae=STRANGER")
    with Peer(own.dicom_port) as peer:
        assert peer.associate(calling=b"MODALITY_CT")[0] == 2
        assert peer.store(wire.data_set()) == 0
        peer.release()
    assert "security" not in json.loads(members(own.wait_sealed()[0])["manifest.json"])
    with Peer(own.dicom_port) as one, Peer(own.dicom_port) as two:
        assert one.associate(calling=b"MODALITY_MR")[0] == 2
        assert two.associate(calling=b"MODALITY_MR") == (3, b"\0\2\3\2")
        one.release()


def test_enable_echo_and_store(start: Gateways) -> None:
    own = start(endpoint="enable_echo = false\nenable_store = false")
    with Peer(own.dicom_port) as peer:
        kind, body = peer.associate()
        assert kind == 2
        results = [i[2] for k, i in wire.parse_items(body[68:]) if k == 0x21]
        assert results == [1, 1]


@pytest.mark.fault("F60")
def test_max_pdu_is_announced_and_enforced(start: Gateways) -> None:
    own = start(endpoint="max_pdu = 32768")
    with Peer(own.dicom_port) as peer:
        _, body = peer.associate()
        user = next(i for k, i in wire.parse_items(body[68:]) if k == 0x50)
        assert dict(wire.parse_items(user))[0x51] == struct.pack(">L", 32768)
        assert peer.store(wire.data_set(pixels=b"x" * 40000), sizes=[32762, 32762]) == 0
        items = wire.pdvs(1, wire.store_rq("1.2"), True) + wire.pdvs(1, b"x" * 32763, False)
        peer.send(wire.p_data(items))
        assert peer.pdu() == (7, b"\0\0\2\6")


def test_one_release_and_one_abort_are_logged(start: Gateways) -> None:
    own = start()
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"RELEASES")
        peer.release()
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"ABORTS")
        peer.send(wire.ABORT)
        assert peer.closed()
    with Peer(own.dicom_port) as peer:
        peer.associate(calling=b"VANISHES")
    own.wait_for("association_ended .*calling_ae=RELEASES .*how=released")
    own.wait_for('association_ended .*calling_ae=ABORTS .*how="aborted by the peer"')
    own.wait_for('association_ended .*calling_ae=VANISHES .*how="lost: ')


# -- statuses ------------------------------------------------------------------------------------


@pytest.fixture
def peer(gateway: Gateway) -> Iterator[Peer]:
    with Peer(gateway.dicom_port) as one:
        one.associate()
        yield one


@pytest.mark.fault("F66")
def test_mismatch_is_a900(peer: Peer) -> None:
    peer.send(
        wire.p_data(
            wire.pdvs(1, wire.store_rq("9.9.9"), True) + wire.pdvs(1, wire.data_set(), False)
        )
    )
    answer = peer.response()
    assert answer[0x0900] == b"\x00\xa9"
    assert answer[0x0901] == b"\x08\x00\x18\x00"
    assert answer[0x0902].strip()
    assert peer.store(wire.data_set(sop_class="1.2.840.10008.5.1.4.1.1.4")) == 0xA900
    assert peer.store(wire.data_set()) == 0  # and the association goes on


@pytest.mark.fault("F55")
@pytest.mark.parametrize("missing", [0x0020000D, 0x0020000E, 0x00080018])
def test_a_missing_uid_is_c000(peer: Peer, missing: int) -> None:
    data = wire.data_set()
    for value in (b"1.2.3.1", b"1.2.3.2", b"1.2.3.9"):
        data = data.replace(wire.element(missing, b"UI", value), b"")
    assert peer.store(data) & 0xF000 == 0xC000


@pytest.mark.fault("F65")
def test_garbage_is_c000(peer: Peer) -> None:
    assert peer.store(os.urandom(2000).replace(b"\0", b"\1")) & 0xF000 == 0xC000
    assert peer.store(b"") & 0xF000 == 0xC000
    assert peer.store(wire.data_set()) == 0


@pytest.mark.fault("F70")
def test_other_statuses(peer: Peer) -> None:
    assert peer.store(wire.data_set(), sop_class="1.2.840.10008.5.1.4.1.1.4") == 0xA900
    worklist = "1.2.840.10008.5.1.4.31"
    assert peer.store(wire.data_set(sop_class=worklist), sop_class=worklist) == 0x0122
    assert peer.store(wire.data_set(), "1.2/3") == 0x0117
    peer.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3", data_set=wire.NO_DATA_SET), True)))
    assert peer.status() & 0xF000 == 0xC000
    find = wire.command(
        {0x0002: wire.uid(wire.CT), 0x0100: wire.us(0x20), 0x0110: wire.us(5), 0x0800: wire.us(1)}
    )
    peer.send(wire.p_data(wire.pdvs(1, find, True) + wire.pdvs(1, b"identifier", False)))
    answer = peer.response()
    assert (answer[0x0900], answer[0x0100], answer[0x0120]) == (
        b"\x11\x02",
        wire.us(0x8020),
        wire.us(5),
    )
    peer.send(
        wire.p_data(
            wire.pdvs(
                1,
                wire.command(
                    {0x0100: wire.us(0xFFF), 0x0120: wire.us(5), 0x0800: wire.us(wire.NO_DATA_SET)}
                ),
                True,
            )
        )
    )
    peer.send(wire.p_data(wire.pdvs(3, wire.echo_rq(9), True)))
    assert peer.response()[0x0120] == wire.us(9)


@pytest.mark.fault("F63")
def test_transfer_syntax_is_the_senders_first_choice(gateway: Gateway) -> None:
    private = "1.2.840.113619.5.2"
    with Peer(gateway.dicom_port) as peer:
        _, body = peer.associate(
            wire.context(1, wire.CT, private, wire.IMPLICIT),
            wire.context(3, "1.3.6.1.4.1.9999.1", wire.EXPLICIT),
            wire.context(5, "1.2.840.10008.5.1.4.31", wire.IMPLICIT),
        )
        answers = [
            (i[0], i[2], dict(wire.parse_items(i[4:]))[0x40])
            for k, i in wire.parse_items(body[68:])
            if k == 0x21
        ]
        assert answers[0] == (1, 0, private.encode())
        assert answers[1][:2] == (3, 0)
        assert answers[2][:2] == (5, 3)


@pytest.mark.parametrize("syntax", [wire.IMPLICIT, wire.BIG, wire.DEFLATED])
def test_every_encoding_is_kept_byte_for_byte(gateway: Gateway, syntax: str) -> None:
    study = generate_uid()
    kind = {wire.IMPLICIT: 0, wire.BIG: 2, wire.DEFLATED: 1}[syntax]
    data = wire.data_set(study=study, kind=kind, pixels=b"\1\2" * 5000)
    if syntax == wire.DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(data) + packer.flush()
        data += b"\0" * (len(data) % 2)
    with Peer(gateway.dicom_port) as peer:
        peer.associate(wire.context(1, wire.CT, syntax))
        assert peer.store(data) == 0
        peer.release()
    archive = until(lambda: find_study(gateway, study), "the envelope")
    assert images(archive) == {"1.2.3.9": data}
    metadata = json.loads(members(archive)["payload/metadata.json"])
    assert metadata["studies"][study]["modality"] == "CT"


@pytest.mark.fault("F65")
def test_every_file_of_pydicom_is_kept_byte_for_byte(start: Gateways) -> None:
    """JPEG, RLE, multi-frame, deflated, big endian, odd character sets, truncated files."""
    own = start(builder="release_grace_secs = 0.1")
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    report = send.send_files(
        send.Peer("127.0.0.1", own.dicom_port, called="JMIX_RECEIVER"), [folder]
    )
    kept = [outcome for outcome in report.outcomes if outcome.accepted]
    refused = {
        outcome.instance.path.name: outcome.status
        for outcome in report.outcomes
        if not outcome.accepted
    }
    assert len(kept) > 130
    # Implicit VR, and its transfer syntax is JPEG.
    assert refused.pop("SC_rgb_jpeg.dcm") == 0xC000
    # Command and data set disagree; no Study or Series UID.
    assert set(refused.values()) <= {0xA900, 0xC001}
    own.stop()
    stored = {
        data[144 + int.from_bytes(data[140:144], "little") :]
        for archive in own.envelopes("outbox")
        for name, data in members(archive).items()
        if name.endswith(".dcm")
    }
    assert {data_set_bytes(outcome.instance.path) for outcome in kept} == stored


# -- ack = "uploaded" ----------------------------------------------------------------------------


def test_ack_uploaded(start: Gateways, tmp_path: Path) -> None:
    with running(Store(tmp_path / "up")) as store:
        own = start(store.port, endpoint='ack = "uploaded"')
        with Peer(own.dicom_port) as peer:
            peer.associate()
            for number in range(3):
                assert peer.store(wire.data_set(f"1.2.{number}"), f"1.2.{number}") == 0
                assert len(store.held()) == number + 1  # there before the response
            peer.release()
        store.stop()
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set()) == 0xA700
            peer.release()
        assert not own.envelopes("outbox")


# -- running -------------------------------------------------------------------------------------


def test_restart_delivers_what_was_left(start: Gateways, tmp_path: Path) -> None:
    own = start(builder="release_grace_secs = 30")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(wire.data_set()) == 0
        peer.release()
    assert own.stop() == 0  # sealed on the way out, although the grace was not over
    assert len(own.envelopes("outbox")) == 1
    with running(Store(tmp_path / "up")) as store:
        again = start(store.port)
        assert len(store.wait_held(1)) == 1
        assert again.stop() == 0
        assert again.wait_sent(1)


def test_sigint_finishes_the_instance_in_flight(start: Gateways) -> None:
    own = start()
    data = wire.data_set(pixels=os.urandom(50000))
    items = wire.p_data(
        wire.pdvs(1, wire.store_rq("1.2.3.9"), True) + wire.pdvs(1, data, False, [16000] * 4)
    )
    with Peer(own.dicom_port) as idle, Peer(own.dicom_port) as busy:
        idle.associate()
        busy.associate()
        busy.send(items[:20000])
        own.child.send_signal(signal.SIGINT)
        own.wait_for("stopping")
        assert idle.pdu()[0] == 7
        busy.send(items[20000:])
        assert busy.status() == 0
        assert busy.pdu()[0] == 7
    assert own.child.wait(PATIENCE) == 0
    assert images(own.envelopes("outbox")[0]) == {"1.2.3.9": data}


def test_sigint_does_not_wait_for_a_stalled_peer(start: Gateways) -> None:
    own = start(fastjmix="", builder="")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        peer.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.9"), True)))
        assert own.stop() == 0


def test_sigint_twice_stops_at_once_and_loses_nothing(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 30")
    data = wire.data_set()
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(data) == 0
        peer.send(wire.p_data(wire.pdvs(1, wire.store_rq("1.2.3.10"), True)))
        own.child.send_signal(signal.SIGINT)
        own.wait_for("stopping")
        assert own.stop(signal.SIGINT) == 130
    again = start()
    again.wait_for("envelope_recovered")
    assert images(again.envelopes("outbox")[0]) == {"1.2.3.9": data}


@pytest.mark.parametrize("victim", ["receiver-0", "packer-0", "uploader", "api"])
def test_a_dead_child_is_restarted_and_nothing_is_lost(start: Gateways, victim: str) -> None:
    own = start(builder="release_grace_secs = 0.2")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        first = wire.data_set("1.2.1")
        assert peer.store(first, "1.2.1") == 0
        os.kill(own.children()[victim], signal.SIGKILL)
        own.wait_for(f"child_died child={victim} how=SIGKILL")
        own.wait_for(f"child_restarted child={victim}")
    second = wire.data_set("1.2.2")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        assert peer.store(second, "1.2.2") == 0
        peer.release()
    found: dict[str, bytes] = {}

    def both() -> bool:
        for archive in own.envelopes("outbox"):
            found.update(images(archive))
        return len(found) == 2

    until(both, "both instances in outbox/")
    assert found == {"1.2.1": first, "1.2.2": second}
    assert get(f"{own.http}/healthz")[0] == 200 if victim != "api" else True


def test_recovery_cuts_the_torn_tail(start: Gateways) -> None:
    own = start(builder="release_grace_secs = 30")
    with Peer(own.dicom_port) as peer:
        peer.associate()
        kept = {f"1.2.{n}": wire.data_set(f"1.2.{n}", pixels=os.urandom(3000)) for n in range(3)}
        for instance, data in kept.items():
            assert peer.store(data, instance) == 0
        own.child.kill()
        own.child.wait()
    archive = next((own.spool / "building").glob("*/envelope.zip"))
    with archive.open("ab") as file:
        file.write(archive.read_bytes()[:2000])
    again = start()
    again.wait_for("envelope_recovered .*instances=3")
    assert images(again.envelopes("outbox")[0]) == kept


def test_no_patient_data_in_the_log_and_nothing_left_behind(
    start: Gateways, tmp_path: Path
) -> None:
    with running(Store(tmp_path / "up")) as store:
        own = start(store.port, builder="release_grace_secs = 0.1")
        with Peer(own.dicom_port) as peer:
            peer.associate()
            assert peer.store(wire.data_set()) == 0
            peer.release()
        own.wait_sent()
        assert own.stop() == 0
    assert "CANARY" not in own.log()
    assert not list((own.spool / "building").iterdir())
    assert not list((own.spool / "outbox").iterdir())
    for path in own.spool.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_idle_uses_no_processor(gateway: Gateway) -> None:
    time.sleep(1.0)  # what is measured is the absence of events

    def ticks() -> int:
        total = 0
        for pid in gateway.children().values():
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total

    before = ticks()
    time.sleep(2.0)
    assert ticks() - before <= 4  # of 200 a core


def test_metrics_and_health(gateway: Gateway) -> None:
    assert get(f"{gateway.http}/healthz")[0] == 200
    assert get(f"{gateway.http}/readyz")[0] == 200
    status, _, body = get(f"{gateway.http}/metrics")
    assert status == 200
    assert b"instances_received_total" in body


def test_memory_is_given_back(start: Gateways) -> None:
    """Lanes that were used and are idle lose their memory."""
    own = start(builder="release_grace_secs = 0.1")
    with Peer(own.dicom_port) as one, Peer(own.dicom_port) as two:  # two lanes
        for peer in (one, two):
            peer.associate()
            assert peer.store(wire.data_set(pixels=os.urandom(4 << 20))) == 0
        for peer in (one, two):
            peer.release()

    def lanes_kb() -> int:
        pid = own.children()["receiver-0"]
        text = Path(f"/proc/{pid}/smaps").read_text()
        at = text.index("memfd:fastjmix-lanes")
        return int(text[at:].split("Rss:")[1].split()[0])

    assert lanes_kb() > 6000
    until(lambda: lanes_kb() < 500, "the lane's memory is given back")


def test_associations_and_threads_at_the_same_time(gateway: Gateway) -> None:
    """Twenty peers, each with an association of its own, instances interleaved."""
    study = generate_uid()
    failures: list[object] = []

    def one(number: int) -> None:
        try:
            with Peer(gateway.dicom_port) as peer:
                peer.associate(calling=f"AE{number}".encode())
                for image in range(10):
                    uid = f"1.2.{number}.{image}"
                    assert (
                        peer.store(wire.data_set(uid, study=study, pixels=os.urandom(30000)), uid)
                        == 0
                    )
                peer.release()
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    archive = until(lambda: find_study(gateway, study), "the envelope")
    assert len(images(archive)) == 200
