"""Encrypted, signed envelopes out of a running gateway: bytes, kills, full disks, secrets."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastjmix.config import key_files
from fastjmix.errors import EnvelopeError
from fastjmix.failpoints import POINTS
from fastjmix.jmix import keys
from fastjmix.jmix.digests import stream_hash
from fastjmix.jmix.read.admission import check_envelope
from fastjmix.jmix.write import encryption
from fastjmix.jmix.write.assertions import verify_assertions
from fastjmix.jmix.write.signing import verify_manifest
from fastjmix.spool import Provenance, Spool
from fastjmix.spool.provenance import StudyFacts
from tests.support.disks import Memory
from tests.support.gateway import (
    Gateway,
    Gateways,
    Peer,
    Store,
    get,
    images_in,
    members,
    running,
    until,
)
from tests.support.ledger import Ledger, Modality, digest, instances

NOWHERE = 9  # nobody listens: what was sealed stays in outbox/
RECIPIENT = keys.recipient_key(bytes(range(7, 39)), "the recipient's")
SIGNER = keys.signing_key(bytes(range(40, 72)), "the signer's")
QUICK = "release_grace_secs = 0.1"


def builder(dialect: str = "php", extra: str = QUICK, assertion: str = "") -> str:
    public = base64.b64encode(RECIPIENT.public).decode()
    return f"""
profile = "jmix-1.0"
sender = {{ id = "org:a", contact = "a@example.org"{assertion} }}
receivers = [{{ id = "org:b", contact = "b@example.org" }}]
encryption = {{ recipient_public_key = "{public}", dialect = "{dialect}" }}
{extra}
"""


@pytest.fixture
def gateway_defaults() -> dict[str, Any]:
    return {"builder": builder()}


def send(own: Gateway, study: str = "1.2.826.5", count: int = 3, size: int = 3000) -> Ledger:
    ledger = Ledger()
    Modality(lambda: own.dicom_port, ledger).send(instances(study, count, size))
    return ledger


def sealed(own: Gateway, count: int = 1) -> list[Path]:
    """Waits until no envelope is being built and this many wait for the upstream."""
    until(
        lambda: (
            len(own.envelopes("outbox")) >= count and not any((own.spool / "building").iterdir())
        ),
        f"{count} envelopes sealed",
    )
    return own.envelopes("outbox")


def payload(archive: Path) -> tuple[dict[str, Any], str, bytes, dict[str, bytes]]:
    """Returns (manifest, dialect, ciphertext, its content); the archive holds nothing else."""
    content = members(archive)
    manifest = json.loads(content.pop("manifest.json"))
    content.pop("manifest.jws", None)
    content.pop("audit.json")
    ((name, secret),) = content.items()
    fields = manifest["security"]["encryption"]
    found = encryption.decrypt(None, RECIPIENT, fields, lambda: [secret])
    inside = {path: b"".join(pieces) for path, _, pieces in found}
    dialect = encryption.verify(None, RECIPIENT, fields, lambda: [secret]).dialect
    assert name == encryption.encrypted_name(dialect)
    return manifest, dialect, secret, inside


def check(own: Gateway, ledger: Ledger) -> None:
    """Each acknowledged instance is in exactly one envelope, byte for byte; no plaintext is out."""
    found: dict[str, bytes] = {}
    fields = []
    for archive in sealed(own):
        manifest, _, _, inside = payload(archive)
        fields.append(manifest["security"]["encryption"])
        metadata = json.loads(inside["metadata.json"])
        assert metadata["id"] == manifest["id"] == archive.stem
        for uid, data in images_in(inside).items():
            assert uid not in found
            found[uid] = digest(data)
        assert b"CANARY" not in archive.read_bytes()
    assert found.keys() >= ledger.acknowledged
    assert all(ledger.sent[uid] == value for uid, value in found.items())
    for name in ("ephemeral_public_key", "iv", "auth_tag"):
        assert len({one[name] for one in fields}) == len(fields)
    assert not own.envelopes("rejected")


@pytest.mark.parametrize("dialect", encryption.DIALECTS)
def test_a_study_is_encrypted_as_the_dialect_has_it(
    start: Gateways, tmp_path: Path, dialect: str
) -> None:
    keys_at = tmp_path / "own" / "pipelines"
    keys_at.mkdir(parents=True)
    (keys_at / "signer.pem").write_bytes(SIGNER.pem())
    signing = f'{QUICK}\nsigning = {{ key_file = "signer.pem" }}'
    asserting = ', assertion = { key_file = "signer.pem", expires_secs = 3600 }'
    own = start(builder=builder(dialect, signing, asserting))
    ledger = send(own)
    (archive,) = sealed(own)
    check(own, ledger)
    manifest, found, secret, inside = payload(archive)
    assert found == dialect
    verified = encryption.verify(
        dialect, RECIPIENT, manifest["security"]["encryption"], lambda: [secret]
    )
    hashes = {
        "php": f"sha256:{hashlib.sha256(secret).hexdigest()}",
        "rs": f"sha256:{verified.tar_sha256}",
        "js": stream_hash("sha256", inside, lambda path: [inside[path]]),
    }
    assert manifest["security"]["payload_hash"] == hashes[dialect]
    content = members(archive)
    verify_manifest(content["manifest.jws"], content["manifest.json"], SIGNER.public)
    (asserted,) = verify_assertions(manifest, 0)
    assert (asserted.role, asserted.ok, asserted.unsigned) == ("sender", True, ())
    listed = {entry["file"]: entry["hash"] for entry in json.loads(inside["files.json"])}
    assert all(
        listed[path] == f"sha256:{hashlib.sha256(data).hexdigest()}"
        for path, data in inside.items()
        if path != "files.json"
    )
    status, _, body = get(f"{own.http}/jmix/api/jmix?studyInstanceUid=1.2.826.5")
    assert (status, body) == (200, archive.read_bytes())
    status, _, body = get(f"{own.http}/jmix/api/jmix/{archive.stem}/manifest")
    assert (status, json.loads(body)) == (200, manifest)
    secrets_stay_where_they_are(own, tmp_path / "own")


def secrets_stay_where_they_are(own: Gateway, directory: Path) -> None:
    """The signing key is in its file, and nowhere else: spool, log, process lists, environments."""
    seed = bytes(range(40, 72))
    signs = (seed, seed.hex().encode(), base64.b64encode(seed), SIGNER.pem().splitlines()[1])
    places = [path for path in directory.rglob("*") if path.is_file()]
    pids = [own.child.pid, *own.children().values()]
    places += [Path(f"/proc/{pid}/{name}") for pid in pids for name in ("cmdline", "environ")]
    texts = {str(place): place.read_bytes() for place in places}
    texts["log"] = own.log().encode()
    holders = {place for place, text in texts.items() if any(sign in text for sign in signs)}
    assert holders == {str(directory / "pipelines" / "signer.pem")}
    assert len(texts) > 10


@pytest.mark.parametrize("dialect", encryption.DIALECTS)
def test_a_store_with_the_key_takes_what_it_can_open(tmp_path: Path, dialect: str) -> None:
    """The store also answers queries for its study, after a restart too, and keeps it encrypted."""
    (tmp_path / "k").write_bytes(RECIPIENT.pem())
    options = ("--verify-hashes", "--decryption-key", str(tmp_path / "k"))
    with running(Store(tmp_path, *options)) as store:
        with running(Gateway(tmp_path / "own", store.port, builder=builder(dialect))) as own:
            ledger = send(own)
            (sent,) = own.wait_sent()
        (held,) = store.wait_held(1)
        assert (held["studyInstanceUid"], held["instances"]) == ("1.2.826.5", 3)
        found = store.archive(held["id"])
    assert found == sent.read_bytes()
    assert images_in(payload(sent)[3]).keys() == ledger.acknowledged
    with running(Store(tmp_path, *options)) as store:
        assert [one["id"] for one in store.held()] == [sent.stem]
    found = bytearray(found)
    found[len(found) // 2] ^= 1
    with pytest.raises(EnvelopeError):
        check_envelope(io.BytesIO(found), key=RECIPIENT)
    with pytest.raises(EnvelopeError, match="not available here"):
        check_envelope(io.BytesIO(sent.read_bytes()))


def test_keys_are_made_once(tmp_path: Path) -> None:
    def made(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastjmix", "envelope", "keygen", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    signing, encrypting = made("--signing", "-o", "s"), made("--encryption", "-o", "e")
    key = keys.signing_key(key_files.read_file(tmp_path / "s"), "s")
    assert keys.signing_public(signing.stdout.encode(), "stdout") == key.public
    assert key.fingerprint in signing.stderr
    private = keys.recipient_key(key_files.read_file(tmp_path / "e"), "e")
    assert keys.recipient_public(encrypting.stdout.encode(), "stdout") == private.public
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert {path.stat().st_mode & 0o777 for path in before} == {0o600}
    again = made("--encryption", "-o", "e")
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr
    assert (
        made("-o", "x").returncode == made("--signing", "--encryption", "-o", "x").returncode == 2
    )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_skip_hashing_leaves(start: Gateways) -> None:
    own = start(builder=builder("js", f"{QUICK}\nskip_hashing = true\nskip_listing = true"))
    send(own)
    (archive,) = sealed(own)
    manifest, _, _, inside = payload(archive)
    assert manifest["security"].keys() == {"encryption"}
    assert "files.json" not in inside


# -- kills and faults ----------------------------------------------------------------------------

SEAL = [point for point in POINTS if point.startswith("encrypt.")]


@pytest.mark.parametrize("point", [*SEAL, "seal.published", "seal.removed"])
def test_a_packer_killed_while_it_encrypts(start: Gateways, point: str) -> None:
    """No instance is lost, no step is left unfinished, and one id has one content."""
    own = start(at=f"{point}:kill:1")
    ledger = send(own)
    own.wait_for(f"failpoint_reached point={point}")
    check(own, ledger)
    (archive,) = own.envelopes("outbox")
    says_nothing_of_the_patient(Provenance.read(Spool(own.spool), archive.stem))


def says_nothing_of_the_patient(came: Provenance) -> None:
    """A provenance is not encrypted: it names the study and the sender only."""
    study = came.study
    assert study == StudyFacts(study.study_instance_uid, modalities=study.modalities)
    assert study.study_instance_uid == "1.2.826.5"
    assert {one.association for one in came.instances} == set(range(len(came.associations)))
    assert all(one.calling_ae and one.began for one in came.associations)
    assert all(one.arrived for one in came.instances)


@pytest.mark.parametrize(
    ("point", "action"),
    [
        *itertools.product(SEAL, ("raise",)),
        ("encrypt.midway", "enospc"),
        ("encrypt.settled", "eio"),
    ],
)
def test_a_fault_while_it_encrypts(start: Gateways, point: str, action: str) -> None:
    """The envelope is sealed in the end, and the next study is accepted in any case."""
    own = start(at=f"{point}:{action}:1")
    ledger = send(own)
    own.wait_for(f"failpoint_reached point={point}")
    check(own, ledger)
    assert send(own, "1.2.826.6", 1).acknowledged


def test_a_restart_finishes_what_was_settled(start: Gateways) -> None:
    """The whole gateway is killed with the encrypted archive complete in building/."""
    own = start(at="encrypt.settled:stop:1")
    ledger = send(own)
    own.wait_for("failpoint_reached point=encrypt.settled")
    (draft,) = (own.spool / "building").iterdir()
    secret = (draft / "sealed.zip").read_bytes()
    own.child.kill()
    own.close()
    assert not own.envelopes("outbox")
    again = start()
    check(again, ledger)
    (archive,) = again.envelopes("outbox")
    assert archive.read_bytes() == secret


def test_a_member_damaged_before_it_is_encrypted_is_found(start: Gateways) -> None:
    own = start(builder=builder(extra="release_grace_secs = 60"))
    ledger = Ledger()
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for uid, data in instances("1.2.826.5", 3).items():
            ledger.sending(uid, data)
            assert peer.store(data, uid) == 0
            ledger.answered(uid)
        (draft,) = (own.spool / "building").iterdir()
        archive = draft / "envelope.zip"
        held = archive.read_bytes()
        at = held.index(b"CANARY", len(held) // 2)
        with archive.open("r+b") as file:
            file.seek(at)
            file.write(bytes([held[at] ^ 1]))
        peer.release()
    own.stop()
    assert "member_damaged" in own.log()
    kept = images_in(payload(own.envelopes("outbox")[0])[3])
    assert 0 < len(kept) < 3
    assert all(digest(data) == ledger.sent[uid] for uid, data in kept.items())
    assert own.envelopes("rejected")


# -- time and space ------------------------------------------------------------------------------


def test_others_are_answered_while_a_large_study_is_encrypted(start: Gateways) -> None:
    """If they waited, the large one would be finished each time; a slow test may miss it once."""
    own = start(fastjmix="packers = 1")
    ledger, overlapped = Ledger(), 0
    modality = Modality(lambda: own.dicom_port, ledger)
    with Peer(own.dicom_port) as peer:
        peer.associate()
        for attempt in itertools.count(1):
            modality.send(instances(f"1.2.826.7.{attempt}", 16, 6 << 20))
            being = until(
                lambda: list((own.spool / "building").glob("*/sealed.zip.new")), "it is encrypted"
            )
            ((uid, data),) = instances(f"1.2.826.8.{attempt}", 1).items()
            ledger.sending(uid, data)
            assert peer.store(data, uid) == 0
            ledger.answered(uid)
            overlapped += being[0].exists()
            if overlapped or attempt == 3:
                break
        peer.release()
    assert overlapped
    own.wait_for("envelope_sealed", 2 * attempt)
    check(own, ledger)


def test_space_for_the_second_copy_is_reserved(start: Gateways, tmp_path: Path) -> None:
    """On a small disk instances are refused before their encryption lacks space."""
    with contextlib.closing(Memory(tmp_path / "own" / "spool", 64 << 20)):
        own = start(
            builder=builder(extra='release_grace_secs = 0.1\ndurability = "page-cache"'),
            storage="soft_reserve_bytes = 4194304\nhard_reserve_bytes = 2097152",
        )
        with Peer(own.dicom_port) as peer:
            peer.associate()
            ledger, statuses = Ledger(), []
            for uid, data in instances("1.2.826.9", 60, 1 << 20).items():
                ledger.sending(uid, data)
                statuses.append(peer.store(data, uid))
                if statuses[-1] == 0:
                    ledger.answered(uid)
            peer.release()
        assert statuses.count(0) in range(24, 32)
        assert set(statuses) == {0, 0xA700}
        check(own, ledger)
        assert "seal_failed" not in own.log()
        own.close()


def test_ack_uploaded_is_answered_when_encrypting_fails(start: Gateways) -> None:
    """Success only after the upstream's answer: here there is not even an envelope."""
    own = start(at="encrypt.midway:enospc:1", endpoint='ack = "uploaded"')
    with Peer(own.dicom_port) as peer:
        peer.associate()
        ((uid, data),) = instances("1.2.826.4", 1).items()
        assert peer.store(data, uid) == 0xA700
    until(lambda: not any((own.spool / "building").iterdir()), "the draft is gone")
    assert not own.envelopes("outbox")
