"""jmix/read/verify.py, rules.py, container.py: every fault found, each with its place."""

from __future__ import annotations

import base64
import copy
import dataclasses
import functools
import hashlib
import io
import json
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fastjmix.dicom.dataset import Description
from fastjmix.errors import EnvelopeError
from fastjmix.jmix import keys, open_envelope, verify
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.read import rules
from fastjmix.jmix.read.report import Report
from fastjmix.jmix.read.unzip import Archive
from fastjmix.jmix.write import assertions, encryption, profiles, signing
from fastjmix.jmix.write.archive import Member, central_directory, local_header
from fastjmix.jmix.write.envelope import Contents, Options
from fastjmix.jmix.write.parties import AssertionSettings, Entity, Published, Signing
from fastjmix.jmix.write.tarball import DIALECTS, Plain
from fastjmix.tools.envelope import show
from fastjmix.tools.envelope.summary import summarise
from tests import reference
from tests.support import published_rules
from tests.support.envelopes import ID, IMAGE, STUDY, members, zipped
from tests.support.nightly import by_form
from tests.support.sealed import sealed

SIGNER = keys.signing_key(bytes(range(32)), "test")
RECIPIENT = keys.recipient_key(bytes(range(1, 33)), "test")
NOW = 1_705_312_800.0
PARTIES = Published(
    Entity("org:a", "A", "a@example.org", AssertionSettings("signer", expires_secs=3600)),
    (Entity("org:b"),),
    signing=Signing("signer"),
)


def made(profile: str, **more: Any) -> dict[str, bytes]:
    """The members of an envelope with two instances, by the profile's own code."""
    contents = Contents(profiles.get(profile).member_name)
    images = {}
    for number in (1, 2):
        data = b"DICM" * (10 + number)
        uid = f"1.2.{number}"
        name = contents.add(
            STUDY, "1.2", "1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1", number,
            len(data), reference.digest("sha256", data), Description(),
        ).name  # fmt: skip
        images[name.decode()] = data

    def read(name: bytes) -> Iterator[bytes]:
        yield images[name.decode()]

    options = Options(ID, NOW, read=read, **more)
    documents = profiles.get(profile).documents(contents, options)
    return {document.name.decode(): document.data for document in documents} | images


@functools.cache
def harmony() -> dict[str, bytes]:
    return made("harmony")


@functools.cache
def published(payload_hash: str = "tree") -> dict[str, bytes]:
    options: dict[str, Any] = {"payload_hash": payload_hash}
    return made("jmix-1.0", published=PARTIES, keys={"signer": SIGNER}, **options)


def judged(data: bytes, **options: Any) -> Report:
    return verify(io.BytesIO(data), now=NOW, **options)


def faults(report: Report) -> str:
    return "\n".join(map(str, report.faults))


# -- what is well --------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [{}, {"skip_hashing": True}, {"skip_listing": True}])
def test_harmony_is_valid(skip: dict[str, bool]) -> None:
    report = judged(sealed(made("harmony", **skip)))
    assert report.ok
    assert (report.id, report.profile, report.studies) == (ID, "harmony", (STUDY,))
    assert (report.instances, report.members) == (2, 4)
    assert report.payload_hash == ("absent" if "skip_hashing" in skip else "right")


@pytest.mark.parametrize("payload_hash", ["tree", "stream"])
def test_published_is_valid_and_signed(payload_hash: str) -> None:
    report = judged(sealed(published(payload_hash)), public_key=SIGNER.public)
    assert report.ok, faults(report)
    assert (report.payload_hash, report.hashes, report.remarks) == ("right", 3, [])
    assert [(one.what, one.fingerprint) for one in report.signatures] == [
        ("sender", SIGNER.fingerprint),
        ("manifest.jws", SIGNER.fingerprint),
    ]


def test_a_folder_with_or_without_a_top_is_the_same(tmp_path: Path) -> None:
    for name, data in published().items():
        path = tmp_path / "in" / f"{ID}.JMIX" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for place in (tmp_path / "in", tmp_path / "in" / f"{ID}.JMIX"):
        assert verify(place, now=NOW).ok
        with open_envelope(place) as envelope:
            assert (envelope.id, envelope.studies) == (ID, (STUDY,))
            assert len(envelope.instances) == 2
    top = {f"top/{name}": data for name, data in published().items()}
    assert judged(zipped(top, zipfile.ZIP_DEFLATED)).ok


def test_the_key_behind_a_signature_is_named() -> None:
    report = judged(sealed(published()))
    assert report.ok
    assert "nobody vouches" in str(report.remarks)


def test_documents_of_a_real_envelope_keep_the_rules_said_twice() -> None:
    for name, data in published().items():
        if name.endswith(".json"):
            published_rules.check(name.rpartition("/")[2].removesuffix(".json"), json.loads(data))


# -- one byte ------------------------------------------------------------------------------------


# APPNOTE §4.3.7 and §4.3.12, bytes of a header: versions and flags, time and date; in the directory
# also the disk, internal and external attributes. No byte of a member depends on them.
LOCAL_FREE = {*range(4, 8), *range(10, 14)}
CENTRAL_FREE = {*range(4, 10), *range(12, 16), *range(34, 42)}


def free_bytes(data: bytes) -> set[int]:
    """Offsets of the header fields that say nothing about a member's data."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entry, found = archive.start_dir, set()
        for info in archive.infolist():
            found |= {info.header_offset + at for at in LOCAL_FREE}
            found |= {entry + at for at in CENTRAL_FREE}
            entry += 46 + len(info.filename) + len(info.extra)
    return found


@pytest.mark.parametrize("make", [harmony, published])
@settings(max_examples=by_form(300, 20_000), deadline=None)
@given(st.data())
def test_any_one_changed_byte_is_found(
    make: Callable[[], dict[str, bytes]], data: st.DataObject
) -> None:
    good = sealed(make())
    at = data.draw(st.integers(0, len(good) - 1).filter(lambda at: at not in free_bytes(good)))
    changed = bytearray(good)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert not judged(bytes(changed)).ok


def test_each_byte_outside_the_data_is_found() -> None:
    """Headers and directory, except the fields that say nothing about a member's data."""
    good = sealed(harmony())
    at = 0
    covered = set(range(len(good)))
    for name, data in harmony().items():
        at += len(local_header(name.encode(), 0, len(data)))
        covered -= set(range(at, at + len(data)))
        at += len(data)
    for place in sorted(covered - free_bytes(good)):
        changed = bytearray(good)
        changed[place] ^= 0x01
        assert not judged(bytes(changed)).ok, place


def test_headers_of_other_programs_are_no_fault() -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert judged(zipped(harmony(), method)).ok


def test_an_archive_that_is_nearly_as_fastjmix_writes_it_is_no_fault() -> None:
    """Another program may write the same headers, and one that differs."""
    good = bytearray(sealed(harmony()))
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entry = archive.start_dir
    for at in (12, 14, 38):  # time, date, external attributes of the first entry
        changed = bytearray(good)
        changed[entry + at] ^= 0x01
        assert judged(bytes(changed)).ok


# -- every fault ---------------------------------------------------------------------------------


def test_all_faults_are_reported_and_not_only_the_first() -> None:
    content = published() | {"audit.json": b'{"audit": [{"event": 5}]}'}
    manifest = json.loads(content["manifest.json"])
    manifest["receiver"] = []
    manifest["surplus"] = 1
    del manifest["timestamp"]
    content["manifest.json"] = json.dumps(manifest).encode()
    content["payload/dicom/1.2.1.dcm"] = b"changed"
    reported = faults(judged(zipped(content), public_key=SIGNER.public))
    for words in (
        'manifest.json: "receiver" must have at least 1',
        'manifest.json: "surplus" is a key',
        'manifest.json: "timestamp" is missing',
        'audit.json: "audit[0].event" must be a text, not 5',
        'audit.json: "audit[0].by" is missing',
        "payload/dicom/1.2.1.dcm: does not match its hash",
        '"security.payload_hash" does not match',
        "manifest.jws: its signature is right, but it signs other bytes",
        '"studies.series[0].instances[0].size_bytes" says 44 bytes',
    ):
        assert words in reported, reported


@pytest.mark.parametrize(
    ("document", "path", "value", "words"),
    [
        ("manifest.json", ("id",), "x", '"id" must be a UUID'),
        ("manifest.json", ("version",), 1, '"type" must be "envelope"'),
        ("manifest.json", ("timestamp",), "2024-13-01T00:00:00Z", '"timestamp" must be a date'),
        ("manifest.json", ("sender",), "me", '"sender" must be an object, not a text'),
        ("manifest.json", ("sender", "contact"), {}, '"sender.contact.system" is missing'),
        ("manifest.json", ("security", "classification"), "secret", "must be one of confidential"),
        ("manifest.json", ("extensions",), {"custom_tags": [1]}, '"extensions.custom_tags[0]"'),
        ("manifest.json", ("extensions",), {"consent": {}}, '"extensions.consent.status" is'),
        ("payload/metadata.json", ("patient",), {}, '"patient.id" is missing'),
        ("payload/metadata.json", ("patient", "dob"), "70-1-1", '"patient.dob" must be a day'),
        ("payload/metadata.json", ("patient", "sex"), "X", '"patient.sex" must be one of M, F, O'),
        ("payload/metadata.json", ("studies",), [], '"studies" must be an object'),
        ("payload/metadata.json", ("studies", "study_date"), "2024", "is a key that"),
        ("payload/files.json", (0, "size_bytes"), -1, '"[0].size_bytes" must be a whole number'),
        ("payload/files.json", (0, "file"), 7, '"[0].file" must be a text, not 7'),
        ("payload/files.json", (0, "file"), "absent", "is not in the archive"),
        ("payload/files.json", (0, "hash"), "md5:1", '"[0].hash" must be sha256'),
    ],
)
def test_wrong_types_keys_and_values_are_named(
    document: str, path: tuple[str | int, ...], value: object, words: str
) -> None:
    content = published()
    root = json.loads(content[document])
    at: Any = root
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    reported = faults(judged(zipped(content | {document: json.dumps(root).encode()})))
    assert document in reported
    assert words in reported


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"7", b"\xff", b'{"a":1,}', b"null", b"[" * 100_000]
)
@pytest.mark.parametrize("document", ["manifest.json", "payload/metadata.json", "audit.json"])
def test_documents_that_are_none(document: str, data: bytes) -> None:
    report = judged(zipped(published() | {document: data}))
    assert any(fault.where == document for fault in report.faults)


def test_members_of_a_broken_manifest_are_still_read() -> None:
    data = zipped(harmony() | {"manifest.json": b"{"}).replace(b"DICMDICM", b"DICMdICM", 1)
    reported = faults(judged(data))
    assert "manifest.json" in reported
    assert "CRC-32" in reported


def test_a_hash_over_what_cannot_be_read_was_not_compared() -> None:
    data = sealed(harmony()).replace(b"DICMDICM", b"DICMdICM", 1)
    report = judged(data)
    assert "CRC-32" in faults(report)
    assert report.payload_hash == "not compared"
    content = harmony() | {"payload/series_1/image_001.dcm": b"DICM" * 11 + b"!"}
    assert judged(zipped(content)).payload_hash == "wrong"


def test_skipped_hashes_are_a_remark() -> None:
    content = made("jmix-1.0", published=Published(PARTIES.receivers[0], PARTIES.receivers))
    manifest = json.loads(content["manifest.json"])
    manifest["security"]["payload_hash"] = "sha256:skipped"
    report = judged(zipped(content | {"manifest.json": json.dumps(manifest).encode()}))
    assert report.ok
    assert report.payload_hash == "skipped"
    assert "sha256:skipped" in str(report.remarks)


def test_what_stands_beside_an_envelope_is_a_remark() -> None:
    report = judged(zipped(published() | {"README.md": b"made by jmix-rs"}))
    assert report.ok
    assert "README.md" in str(report.remarks)


VALID = {
    "manifest": json.loads(published()["manifest.json"]),
    "metadata": json.loads(published()["payload/metadata.json"]),
    "files": json.loads(published()["payload/files.json"]),
    "audit": json.loads(published()["audit.json"]),
}
RULES: dict[str, rules.Rule] = {
    "manifest": rules.MANIFEST,
    "metadata": rules.METADATA,
    "files": rules.FILES,
    "audit": rules.AUDIT,
}
VALUES = st.sampled_from(
    [None, True, 0, -1, 1.5, "", "x", "M", [], {}, ["x"], {"id": "x"}, "2024-02-30", "2024-02-29",
     "2024-01-15T10:00:00Z", "2024-01-15T10:00:00", ID, f"sha256:{'a' * 64}", "Ed25519"]
)  # fmt: skip
KEYS = st.sampled_from(["id", "name", "contact", "extra", "assertion", "requester", "dob", "hash"])


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a document."""
    found = []
    steps = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in steps:
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += places(inner)
    return found


def mutated(name: str, data: st.DataObject) -> Any:
    """A valid document with up to two things changed."""
    document = json.loads(json.dumps(VALID[name]))
    for _ in range(data.draw(st.integers(0, 2))):
        container, key = data.draw(st.sampled_from(places(document)))
        if data.draw(st.booleans()) and isinstance(container, dict):
            del container[key]
        elif data.draw(st.booleans()) and isinstance(container, dict):
            container[data.draw(KEYS)] = copy.deepcopy(data.draw(VALUES))
        else:
            container[key] = copy.deepcopy(data.draw(VALUES))
        if not places(document):
            break
    return document


@settings(max_examples=by_form(300, 20_000), deadline=None)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_whatever_a_document_says_it_is_judged_and_shown(name: str, data: st.DataObject) -> None:
    text = json.dumps(mutated(name, data)).encode()
    place = f"payload/{name}.json" if name in ("metadata", "files") else f"{name}.json"
    with tempfile.NamedTemporaryFile(suffix=".zip") as file:
        file.write(zipped(published() | {place: text}))
        file.flush()
        report = verify(file.name, now=NOW)
        reported = summarise(file.name)
    show.verdict(report, "e.zip", Console(file=io.StringIO()))
    show.tree(reported, Console(file=io.StringIO()))
    orjson.dumps(show.as_json(report, "e.zip"))
    orjson.dumps(reported)


@settings(max_examples=by_form(600, 50_000), deadline=None)
@given(st.sampled_from(sorted(VALID)), st.data())
def test_the_rules_agree_with_those_said_a_second_time(name: str, data: st.DataObject) -> None:
    """And with the published schemas, where FASTJMIX_JMIX_SCHEMAS names them."""
    document = mutated(name, data)
    try:
        published_rules.check(name, document)
    except (AssertionError, ValueError, TypeError, AttributeError):
        wrong = True
    else:
        wrong = False
    assert bool(rules.broken(RULES[name], document, name)) == wrong


# -- the archive ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../x", "'..' in its name"),
        ("/x", "absolute"),
        ("C:/x", "absolute"),
        ("payload\\x", "backslash"),
        ("payload/a\x1bb", "control character"),
        ("payload/con.dcm", "Windows keeps for a device"),
        ("payload/x.", "ends with a dot"),
        ("PAYLOAD/metadata.json", "differs from payload only"),
    ],
)
def test_names_are_faults_with_their_place(name: str, words: str) -> None:
    content = harmony()
    at = len(sealed(content)) - len(central_directory(directory(content), 0))
    report = judged(sealed({**content, name: b"x"}))
    found = [fault for fault in report.faults if words in fault.what]
    assert found
    assert found[0].at == at
    assert "\x1b" not in str(found[0])


def directory(content: dict[str, bytes]) -> list[Member]:
    return [Member(name.encode(), 0, len(data), 0) for name, data in content.items()]


def deflated(payload: bytes, packed: bytes, said: int) -> bytes:
    """An envelope whose image is this DEFLATE stream, with these sizes announced."""
    buffer = io.BytesIO(zipped(members() | {IMAGE: b""}))
    info = zipfile.ZipInfo(IMAGE)
    raw = local(info.filename.encode(), zlib.crc32(payload), len(packed), said) + packed
    source = zipfile.ZipFile(buffer)
    out, entries = io.BytesIO(), []
    for name in ("manifest.json", "payload/metadata.json"):
        data = source.read(name)
        entries.append((name.encode(), zlib.crc32(data), len(data), len(data), 0, out.tell()))
        out.write(local(name.encode(), zlib.crc32(data), len(data), len(data), 0) + data)
    entries.append((IMAGE.encode(), zlib.crc32(payload), len(packed), said, 8, out.tell()))
    out.write(raw)
    start = out.tell()
    for name_bytes, crc, packed_size, size, method, offset in entries:
        out.write(
            struct.pack(
                "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, method, 0, 33, crc, packed_size, size,
                len(name_bytes), 0, 0, 0, 0, 0, offset,
            )
            + name_bytes
        )  # fmt: skip
    length = out.tell() - start
    out.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3, 3, length, start, 0))
    return out.getvalue()


def local(name: bytes, crc: int, packed: int, size: int, method: int = 8) -> bytes:
    return (
        struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, method, 0, 33, crc, packed, size, len(name), 0)
        + name
    )


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def test_a_deflate_stream_is_exactly_what_was_announced() -> None:
    payload = b"DICM" * 1000
    packed = raw_deflate(payload)
    assert judged(deflated(payload, packed, len(payload))).ok
    for data, stream, said, words in (
        (payload[:-1], packed, len(payload) - 1, "goes on behind the 3999 bytes"),
        (payload, packed, len(payload) + 1, "ends 1 bytes early"),
        (payload, packed + b"\0", len(payload), "behind the end of its DEFLATE stream"),
        (payload, packed + raw_deflate(b"x"), len(payload), "behind the end of its DEFLATE"),
        (payload, packed[:-1], len(payload), "DEFLATE stream"),
        (payload, b"\xff" * 10, len(payload), "DEFLATE stream is none"),
    ):
        reported = faults(judged(deflated(data, stream, said)))
        assert words in reported
        assert f"{IMAGE}, byte " in reported


def test_a_bomb_is_given_up_at_its_announced_size() -> None:
    read = 0

    def seen(size: int) -> None:
        nonlocal read
        read += size

    bomb = deflated(b"", raw_deflate(bytes(64 << 20)), 100)
    assert "goes on behind" in faults(judged(bomb, seen=seen))
    assert read < 1 << 20


def test_limits_are_named() -> None:
    reported = faults(judged(sealed(harmony()), limits=Limits(max_unpacked_bytes=10)))
    assert "max_unpacked_bytes is 10" in reported


@pytest.mark.parametrize("cut", [1, 22, 100, 500])
def test_a_cut_archive_is_one_fault_with_its_byte(cut: int) -> None:
    report = judged(sealed(harmony())[:-cut])
    assert len(report.faults) == 1


def test_zip64_sizes_in_a_local_header_must_be_there_and_agree() -> None:
    data = bytearray(zipped(members()))
    struct.pack_into("<2L", data, 18, 0xFFFFFFFF, 0xFFFFFFFF)  # no ZIP64 field follows
    assert "contradicts the central directory" in faults(judged(bytes(data)))


def test_an_archive_in_a_member_is_only_bytes() -> None:
    inner = sealed(harmony())
    report = judged(sealed(members() | {IMAGE: inner}))
    assert report.ok
    with pytest.raises(EnvelopeError):
        Archive(io.BytesIO(sealed(harmony()) + inner), Limits())


# -- folders -------------------------------------------------------------------------------------


def test_links_and_strange_files_in_a_folder_are_faults(tmp_path: Path) -> None:
    for name, data in harmony().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "secret").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    report = verify(tmp_path)
    assert {fault.where for fault in report.faults} == {"secret", "loop"}
    with pytest.raises(EnvelopeError, match="symbolic link"):
        open_envelope(tmp_path)


# -- encrypted -----------------------------------------------------------------------------------


@functools.cache
def encrypted(dialect: str) -> dict[str, bytes]:
    inside = {n.removeprefix("payload/"): d for n, d in published().items() if "payload/" in n}
    plains = [
        Plain(name, len(inside[name]), partial(list, [inside[name]])) for name in sorted(inside)
    ]
    secret: list[bytes] = []
    done = encryption.encrypt(dialect, RECIPIENT.public, plains, secret.append)
    stream = hashlib.sha256(b"".join(n.encode() + b"\n" + inside[n] for n in sorted(inside)))
    digest = {"php": done.sha256, "rs": done.tar_sha256, "js": stream.hexdigest()}[dialect]
    manifest = json.loads(published()["manifest.json"])
    del manifest["sender"]["assertion"]
    del manifest["security"]["jws"]
    manifest["security"] |= {"encryption": done.fields, "payload_hash": f"sha256:{digest}"}
    return {
        "manifest.json": json.dumps(manifest).encode(),
        "audit.json": published()["audit.json"],
        encryption.encrypted_name(dialect): b"".join(secret),
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_encrypted_payload_is_verified_inside(dialect: str) -> None:
    report = judged(sealed(encrypted(dialect)), key=RECIPIENT)
    assert report.ok, faults(report)
    assert (report.decrypted, report.payload_hash) == (True, "right")
    assert (report.instances, report.hashes, report.studies) == (2, 3, (STUDY,))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_without_the_key_it_is_said_what_was_not_proved(dialect: str) -> None:
    report = judged(sealed(encrypted(dialect)))
    assert report.ok
    assert (report.encrypted, report.decrypted) == (True, False)
    assert report.payload_hash == ("right" if dialect == "php" else "not compared")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tampering_with_an_encrypted_envelope_is_found(dialect: str) -> None:
    content = encrypted(dialect)
    name = encryption.encrypted_name(dialect)
    other = content | {name: content[name][:-1] + bytes([content[name][-1] ^ 1])}
    assert "cannot be decrypted" in faults(judged(sealed(other), key=RECIPIENT))
    stranger = keys.recipient_key(bytes(32 * [9]), "test")
    assert "another key" in faults(judged(sealed(content), key=stranger))
    open_beside = content | {"payload/metadata.json": b"{}"}
    assert "lies open beside" in faults(judged(sealed(open_beside)))
    manifest = json.loads(content["manifest.json"])
    manifest["security"]["payload_hash"] = f"sha256:{'0' * 64}"
    lied = content | {"manifest.json": json.dumps(manifest).encode()}
    assert "payload_hash" in faults(judged(sealed(lied), key=RECIPIENT))


def test_a_missing_ciphertext_is_a_fault() -> None:
    content = {n: d for n, d in encrypted("php").items() if n != "payload.encrypted"}
    assert "payload.encrypted: is missing" in faults(judged(sealed(content)))


# -- signatures ----------------------------------------------------------------------------------


def test_a_wanted_signature_must_be_there() -> None:
    reported = faults(judged(sealed(harmony()), public_key=SIGNER.public))
    assert "manifest.jws: is missing" in reported


def test_another_key_is_a_fault() -> None:
    other = keys.new_signing_key().public
    report = judged(sealed(published()), public_key=other)
    assert "manifest.jws: its signature is not right" in faults(report)


def test_a_signature_by_a_library_that_does_not_name_it() -> None:
    manifest = json.loads(published()["manifest.json"])
    del manifest["security"]["jws"], manifest["sender"]["assertion"]
    text = json.dumps(manifest).encode()
    content = published() | {
        "manifest.json": text,
        "manifest.jws": signing.sign_manifest(text, SIGNER),
    }
    report = judged(sealed(content), public_key=SIGNER.public)
    assert report.ok, faults(report)
    assert "as with jmix-rs" in str(report.remarks)


def test_a_signed_audit_entry_is_verified() -> None:
    parties = dataclasses.replace(PARTIES, signing=Signing("signer", audit=True))
    content = made("jmix-1.0", published=parties, keys={"signer": SIGNER})
    report = judged(sealed(content), public_key=SIGNER.public)
    assert report.ok, faults(report)
    assert ("audit.0", True) in [(one.what, one.ok) for one in report.signatures]
    audit = json.loads(content["audit.json"])
    audit["audit"][0]["by"]["id"] = "org:evil"
    changed = sealed(content | {"audit.json": json.dumps(audit).encode()})
    reported = faults(judged(changed, public_key=SIGNER.public))
    assert 'audit.json: "audit.0.assertion": its signature is not right' in reported
    del audit["audit"][0]["assertion"]  # unsigned entries are everyone's to add
    unsigned = sealed(content | {"audit.json": json.dumps(audit).encode()})
    assert judged(unsigned, public_key=SIGNER.public).ok


def test_an_expired_assertion_is_a_fault() -> None:
    report = verify(io.BytesIO(sealed(published())), now=NOW + 7200)
    assert '"sender.assertion": it expired' in faults(report)


def test_what_an_assertion_leaves_unsigned_is_a_remark() -> None:
    manifest = json.loads(published()["manifest.json"])
    bare = {k: v for k, v in manifest["sender"].items() if k != "assertion"}
    manifest["sender"] = bare
    fields = AssertionSettings("signer", fields=("sender.id",))
    made_by = assertions.assertion(manifest, "sender", fields, SIGNER, NOW)
    made_by["signed_fields"] = ["sender.id"]
    made_by["signature"] = base64.b64encode(SIGNER.sign(b'{"sender.id":"org:a"}')).decode()
    manifest["sender"] = bare | {"assertion": made_by}
    del manifest["security"]["jws"]
    content = {n: d for n, d in published().items() if n != "manifest.jws"}
    report = judged(sealed(content | {"manifest.json": json.dumps(manifest).encode()}))
    assert report.ok, faults(report)
    assert "does not sign security.payload_hash" in str(report.remarks)


# -- other libraries' dialects -------------------------------------------------------------------


def test_an_envelope_of_jmix_js_can_be_opened_and_is_faulted() -> None:
    manifest = {"jmix_version": "1.0", "envelope_id": ID, "security": {}}
    metadata = {"patient": {"name": "X"}, "study": {"uid": STUDY, "description": "d"}}
    data = zipped(
        {
            "manifest.json": json.dumps(manifest).encode(),
            "payload/metadata.json": json.dumps(metadata).encode(),
            "payload/dicom/a": b"DICM",
        }
    )
    with zipfile.ZipFile(io.BytesIO(data)):
        report = judged(data)
    assert 'has no "id"' in faults(report)


def test_a_report_says_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "e.zip"
    path.write_bytes(sealed(harmony())[:-1])
    report = verify(path)
    assert len(set(report.faults)) == len(report.faults) == 1
    shutil.rmtree(tmp_path)


# -- size ----------------------------------------------------------------------------------------


def test_a_large_envelope_is_verified_in_constant_memory(tmp_path: Path) -> None:
    """Sparse: its image is a hole. 5 GB in the nightly form, ZIP64 then."""
    import subprocess
    import sys

    size = by_form(300 << 20, 5 << 30)
    path = tmp_path / "large.zip"
    write_sparse(path, size)
    code = (
        "import resource, sys; from fastjmix.jmix import verify\n"
        "verify(sys.argv[2]); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "report = verify(sys.argv[1]); assert report.ok, report.faults\n"
        "assert report.payload_hash == 'right' and report.bytes_read > int(sys.argv[3])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    small = tmp_path / "small.zip"
    write_sparse(small, 4 << 20)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(small), str(size)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < 16 << 10  # KB


def write_sparse(path: Path, size: int) -> None:
    checksum, digest = 0, hashlib.sha256()
    for at in range(0, size, 1 << 20):
        piece = bytes(min(1 << 20, size - at))
        checksum = zlib.crc32(piece, checksum)
        digest.update(piece)
    contents = Contents(profiles.get("harmony").member_name)
    one = contents.add(STUDY, "1.2", "1", "1.2.1", "1.2", 1, size, digest.digest(), Description())
    name = one.name
    documents = profiles.get("harmony").documents(contents, Options(ID, NOW))
    header = local_header(name, checksum, size)
    entries = [Member(name, checksum, size, 0)]
    with path.open("wb") as file:
        file.write(header)
        file.seek(size, 1)
        for document in documents:
            crc = zlib.crc32(document.data)
            entries.append(Member(document.name, crc, len(document.data), file.tell()))
            file.write(local_header(document.name, crc, len(document.data)) + document.data)
        file.write(central_directory(entries, file.tell()))
