"""Strangers' bytes are read once, within bounds, and are either right or refused."""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import keys
from fastjmix.jmix.faults import Unforeseen
from fastjmix.jmix.limits import Limits
from fastjmix.jmix.read import admission, documents, signatures, unzip
from fastjmix.jmix.read.admission import check_envelope, read_manifest
from fastjmix.jmix.read.unzip import Archive
from fastjmix.jmix.write import assertions, encryption, tarball
from fastjmix.jmix.write.assertions import verify_assertions, verify_audit
from fastjmix.jmix.write.signing import sign_manifest, verify_manifest
from fastjmix.tools.envelope.verifying import verify
from tests.support.apis import LISTENER, UPSTREAM, Gateway, running
from tests.support.encrypted import RECIPIENT, encrypted_envelope, encrypted_members
from tests.support.envelopes import ID, IMAGE, PUBLISHED, STUDY, envelope, members, zipped
from tests.support.nightly import by_form
from tests.support.sealed import sealed

GOOD = envelope(ID)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as found:
        yield found


def refused(data: bytes, *words: str, **options: Any) -> None:
    with pytest.raises(EnvelopeError) as caught:
        check_envelope(io.BytesIO(data), **options)
    assert not isinstance(caught.value, Unforeseen), caught.value
    for word in words:
        assert word in caught.value.message


def archive_of(entries: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """Returns a ZIP of (name, extra field of the directory, data), with whatever names and extra
    fields.
    """
    body, directory = bytearray(), bytearray()
    for name, extra, data in entries:
        fields = (20, 0x800, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name))
        directory += struct.pack(
            "<4sH5H3L5H2L", b"PK\1\2", 20, *fields, len(extra), 0, 0, 0, 0, len(body)
        )
        directory += name + extra
        body += struct.pack("<4s5H3L2H", b"PK\3\4", *fields, 0) + name + data
    count = len(entries)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    return bytes(body + directory) + end


def peak(work: Callable[[], object]) -> int:
    """Bytes of Python's memory that it took at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# -- S31: archives without anything in them --------------------------------------------------------

END = struct.Struct("<4s4H2LH")
END64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 0, 0, 0, 0) + struct.pack(
    "<4sLQL", b"PK\6\7", 0, 0, 1
)
STUNTED = {
    "empty": zipped({}),
    "empty, with a comment": zipped({})[:-2] + b"\5\0hello",
    "empty, ZIP64": END64 + END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, *[2**32 - 1] * 2, 0),
    "empty, ZIP64 as well": END64 + zipped({}),
    "one byte": b"P",
    "a local file header": GOOD[:30],
    "an end record that lies": zipped({})[:8] + b"\1\0\1\0" + zipped({})[12:],
    "folders only": archive_of([(b"payload/", b"", b"")]),
    "the end record twice": zipped({}) * 2,
    "offsets beyond the file": GOOD[:-22] + END.pack(b"PK\5\6", 0, 0, 3, 3, 1, 2**31, 0),
    "zeros": bytes(1 << 16),
    "a text": b"not a zip\n" * 100,
}  # fmt: skip


@pytest.mark.fault("S31")
@pytest.mark.parametrize("name", STUNTED)
def test_an_archive_without_members_is_its_authors_fault(gateway: Gateway, name: str) -> None:
    answer = gateway.post(STUNTED[name])
    assert answer.status == 400, answer.body
    assert answer.json["error"]
    assert "fastjmix" not in json.dumps(answer.json)
    report = verify(io.BytesIO(STUNTED[name]))
    assert not report.ok
    assert not any("report this" in fault.hint for fault in report.faults)


@pytest.mark.fault("S31")
def test_an_archive_cut_anywhere_is_its_authors_fault() -> None:
    for cut in range(len(GOOD)):
        refused(GOOD[:cut])


# -- S31: names that cost more than they take ------------------------------------------------------


def chains(count: int, depth: int) -> list[tuple[bytes, bytes, bytes]]:
    """Names that imply `depth` folders each, none of which another implies."""
    return [(f"{n}/{'x/' * (depth - 1)}f".encode(), b"", b"") for n in range(count)]


@pytest.mark.fault("S31")
def test_names_that_imply_a_million_folders_are_refused_within_bounds() -> None:
    data = archive_of(chains(6_500, 230))
    assert len(data) < 8 << 20
    for look in (
        lambda: refused(data, "max_folder"),
        lambda: verify(io.BytesIO(data)),
    ):
        assert peak(look) < 150 << 20


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize(
    ("limits", "folders"),
    [(Limits(max_folders=30), 30), (Limits(max_folder_bytes=2 * sum(range(30)) + 30), 30)],
    ids=["max_folders", "max_folder_bytes"],
)
def test_folders_that_names_imply(limits: Limits, folders: int, off: int) -> None:
    name = "a/" * (folders + off) + "f"
    data = archive_of([(name.encode(), b"", b"")])
    if off > 0:
        with pytest.raises(EnvelopeError, match="max_folder"):
            Archive(io.BytesIO(data), limits)
    else:
        assert len(Archive(io.BytesIO(data), limits).folders) == folders + off


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_depth_of_a_name(off: int) -> None:
    depth = Limits().max_depth + off
    name = "/".join(["x"] * depth)
    data = zipped(members() | {f"{name}": b""})
    if off > 0:
        refused(data, "max_depth, 256")
    else:
        assert check_envelope(io.BytesIO(data)).id == ID


@pytest.mark.fault("S31")
def test_members_are_read_within_bounds() -> None:
    """At both bounds of a directory, a quarter of each: many names, and long ones."""
    documents = [(n.encode(), b"", d) for n, d in members().items() if n.endswith("json")]
    many = [(b"payload/%07d" % n, b"", b"") for n in range(25_000)]
    long = [(b"payload/%07d" % n + b"x" * 1009, b"", b"") for n in range(4_000)]
    for entries in (many, long):
        data = archive_of(documents + entries)
        assert peak(partial(check_envelope, io.BytesIO(data))) < 32 << 20


@pytest.mark.fault("S31")
def test_extra_fields_are_walked_once() -> None:
    """As many empty fields in few entries take as long as in many: each is looked at once."""

    def seconds(entries: int, fields: int) -> float:
        extra = b"\x34\x12\0\0" * fields
        data = archive_of([(b"%d" % n, extra, b"") for n in range(entries)])
        started = time.process_time()
        refused(data, "manifest.json")
        return time.process_time() - started

    assert min(seconds(8, 16_000) for _ in range(3)) < 5 * seconds(128, 1000)


@pytest.mark.fault("S31")
@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (struct.pack("<2H", 0x1234, 9) + b"short", "cut short"),
        (struct.pack("<2H", 1, 0), ""),
        (struct.pack("<2HB", 0x7075, 1, 1), ""),
        (
            struct.pack("<2HBL", 0x7075, 5 + 4, 1, zlib.crc32(b"member")) + b"evil",
            "second name",
        ),
        (struct.pack("<2HQ", 1, 8, 0) * 2, "two ZIP64 fields"),
    ],
    ids=["cut short", "ZIP64 without values", "no path", "another path", "ZIP64 twice"],
)
def test_extra_fields_that_say_more_than_the_header(extra: bytes, words: str) -> None:
    content = [(name.encode(), b"", data) for name, data in members().items()]
    data = archive_of([*content, (b"member", extra, b"")])
    if words:
        refused(data, "member", words)
    else:
        assert check_envelope(io.BytesIO(data)).id == ID


@pytest.mark.fault("S31")
def test_local_headers_are_read_once_however_they_lie() -> None:
    """Each announces 64 KB of extra field, which are the headers behind it: none is read twice."""
    count = 20_000
    data = bytearray(archive_of([(b"%d" % n, b"", b"") for n in range(count)]))
    at = 0
    for number in range(count):
        struct.pack_into("<H", data, at + 28, 0xFFFF)
        at += 30 + len(b"%d" % number)

    class Counting(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            found = super().read(size)
            self.count += len(found)
            return found

    file = Counting(bytes(data))
    reported: list[EnvelopeError] = []
    Archive(file, Limits(), reported.append)
    assert len(reported) >= count - 3000
    assert file.count < 4 * len(data)


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_what_an_archive_may_unpack_to(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    content = members()
    data = zipped({**content, IMAGE: bytes(1 << 20)}, zipfile.ZIP_DEFLATED)
    unpacked = sum(map(len, content.values())) - len(content[IMAGE]) + (1 << 20)
    size = struct.unpack("<L", data[-6:-2])[0] + struct.unpack("<L", data[-10:-6])[0]
    monkeypatch.setattr(unzip, "FREE_BYTES", unpacked - 100 * size - off)
    if off > 0:
        refused(data, "max_ratio, 100")
    else:
        assert check_envelope(io.BytesIO(data)).id == ID


# -- S31: documents --------------------------------------------------------------------------------


@pytest.mark.fault("S31")
def test_a_document_of_empty_objects_costs_little() -> None:
    bomb = b'{"a":[' + b"{}," * 5_000_000 + b"0]}"
    data = zipped(members() | {"manifest.json": bomb}, zipfile.ZIP_DEFLATED)
    assert len(data) < 100_000
    assert peak(lambda: refused(data, "manifest.json", "CONTAINERS_MAX")) < 64 << 20


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_studies_of_an_envelope(off: int) -> None:
    studies = {
        f"1.2.{n}": {"study_uid": "1", "series": []} for n in range(documents.STUDIES_MAX + off)
    }
    data = zipped(members(metadata={"studies": studies}))
    if off > 0:
        refused(data, "STUDIES_MAX, 1000")
    else:
        assert len(check_envelope(io.BytesIO(data)).studies) == documents.STUDIES_MAX + off


@pytest.mark.fault("S31")
def test_a_listing_of_nothing_but_faults_costs_little() -> None:
    manifest = json.loads(members()["manifest.json"]) | {"files": [0] * 200_000}
    data = zipped(members() | {"manifest.json": json.dumps(manifest).encode()})
    reported = []
    assert peak(lambda: reported.append(verify(io.BytesIO(data)))) < 64 << 20
    assert len(reported[0].faults) + reported[0].more_faults >= 200_000


def signed_manifest(count: int, **more: Any) -> dict[str, Any]:
    """Returns a manifest with so many receivers, each of which signs for itself."""
    key = keys.signing_key(bytes(range(32)), "test")

    class Settings:
        key_reference = expires_secs = expires_at = directory_attestation = None
        fields: tuple[str, ...] = ("manifest.id", *more)

    manifest: dict[str, Any] = {**PUBLISHED, **more, "receiver": [{"id": "b"}]}
    made = assertions.assertion(manifest, "receiver.0", Settings(), key, 0.0)
    manifest["receiver"] = [{"id": "b", "assertion": made}] * count
    return manifest


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_assertions_that_are_verified(off: int) -> None:
    count = assertions.ASSERTIONS_MAX + off
    manifest = signed_manifest(count)
    judged = verify_assertions(manifest, 0.0)
    assert len(judged) == count
    assert judged[0].ok
    assert ("ASSERTIONS_MAX" in judged[-1].why) == (off > 0)
    entry = {"event": "x", "assertion": manifest["receiver"][0]["assertion"]}
    judged = verify_audit({"audit": [entry] * count}, ID)
    assert ("ASSERTIONS_MAX" in judged[-1].why) == (off > 0)
    assert len(verify_audit({"audit": [entry] * (count + 1000)}, ID)) == 257


@pytest.mark.fault("S31")
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_that_an_assertion_signs(off: int) -> None:
    known = len(b'"extra":""') + len(f'"manifest.id":"{ID}"')
    fingerprint = keys.signing_key(bytes(range(32)), "test").fingerprint
    known += len(f'"receiver.0.assertion.signing_key.fingerprint":"{fingerprint}"')
    text = "x" * (assertions.SIGNED_BYTES_MAX - known + off)
    if off > 0:
        manifest = signed_manifest(1, extra="x")
        manifest["extra"] = text
        [judged] = verify_assertions(manifest, 0.0)
        assert "SIGNED_BYTES_MAX" in judged.why
    else:
        [judged] = verify_assertions(signed_manifest(1, extra=text), 0.0)
        assert judged.ok, judged.why


@pytest.mark.fault("S31")
def test_a_signature_of_dots_is_not_taken_apart() -> None:
    dots = b"." * (8 << 20)
    key = keys.signing_key(bytes(range(32)), "test")

    def look() -> None:
        with pytest.raises(EnvelopeError, match="three parts"):
            verify_manifest(dots, b"{}", key.public)

    assert peak(look) < 32 << 20


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_signature(monkeypatch: pytest.MonkeyPatch, off: int) -> None:
    key = keys.signing_key(bytes(range(32)), "test")
    content = members()
    jws = sign_manifest(content["manifest.json"], key)
    monkeypatch.setattr(signatures, "JWS_BYTES_MAX", len(jws) - off)
    found = verify(io.BytesIO(sealed({**content, "manifest.jws": jws})), public_key=key.public)
    assert any("JWS_BYTES_MAX" in one.what for one in found.faults) == (off > 0)


# -- S31: an encrypted payload, for whoever has the key --------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_bytes_of_a_ciphertext(off: int) -> None:
    for size, bad in (
        (encryption.PLAIN_MIN - off, off > 0),
        (encryption.PLAIN_MAX + off, off > 0),
    ):
        if bad:
            with pytest.raises(EnvelopeError, match=f"has {size} bytes"):
                encryption.check_cipher_size("payload.enc", size)
        else:
            encryption.check_cipher_size("payload.enc", size)


# -- S32: documents that two readers read differently ----------------------------------------------


DUPLICATE = b'{"id": "%s", "id": "%s", ' % (ID.encode(), ID.encode()[::-1])


def twice(data: bytes) -> bytes:
    """Returns a document whose first key comes twice."""
    key = next(iter(json.loads(data)))
    return b'{"%s": 7, ' % key.encode() + data.lstrip()[1:]


@pytest.mark.fault("S32")
@pytest.mark.parametrize("name", ["manifest.json", "payload/metadata.json"])
def test_a_key_twice_is_refused_wherever_an_envelope_is_posted(gateway: Gateway, name: str) -> None:
    content = members()
    answer = gateway.post(zipped(content | {name: twice(content[name])}))
    assert answer.status == 400
    assert name in answer.json["error"]
    assert "twice" in answer.json["error"]


@pytest.mark.fault("S32")
@pytest.mark.parametrize(
    "name",
    ["manifest.json", "audit.json", "payload/metadata.json", "payload/files.json"],
)
def test_a_key_twice_is_a_fault_of_any_document(name: str) -> None:
    content = members() | {
        "audit.json": b'{"audit": []}',
        "payload/files.json": b'[{"file": "series_1/image_001.dcm"}]',
    }
    data = content[name]
    content[name] = b"[" + twice(data[1:-1]) + b"]" if data.startswith(b"[") else twice(data)
    found = verify(io.BytesIO(sealed(content)))
    assert any(one.where == name and "twice" in one.what for one in found.faults), found.faults


@pytest.mark.fault("S32")
def test_a_key_twice_inside_an_encrypted_payload() -> None:
    inside = {"metadata.json": b'{"id": 1, "id": 2}', "dicom/1.dcm": b"DICM"}
    plains = [
        tarball.Plain(name, len(data), partial(list, [data])) for name, data in inside.items()
    ]
    secret: list[bytes] = []
    done = encryption.encrypt("php", RECIPIENT.public, plains, secret.append)
    manifest = {**PUBLISHED, "security": {"encryption": done.fields}}
    content = {
        "manifest.json": json.dumps(manifest).encode(),
        "payload.encrypted": b"".join(secret),
    }
    refused(sealed(content), "metadata.json", "twice", key=RECIPIENT)
    found = verify(io.BytesIO(sealed(content)), key=RECIPIENT)
    assert any("twice" in one.what for one in found.faults)


@pytest.mark.fault("S32")
def test_a_key_twice_in_a_signatures_header() -> None:
    key = keys.signing_key(bytes(range(32)), "test")
    good = sign_manifest(b"{}", key)
    verify_manifest(good, b"{}", key.public)
    header = base64.urlsafe_b64encode(b'{"alg":"none","alg":"EdDSA"}').rstrip(b"=")
    signed = header + b"." + good.split(b".")[1]
    jws = signed + b"." + base64.urlsafe_b64encode(key.sign(signed)).rstrip(b"=")
    with pytest.raises(EnvelopeError, match="twice"):
        verify_manifest(jws, b"{}", key.public)


# -- anything else ---------------------------------------------------------------------------------

FORMS: dict[str, dict[str, bytes]] = {
    "harmony": members(manifest={"files": [{"path": IMAGE, "size_bytes": 40}]}),
    "published": {
        "manifest.json": json.dumps(
            {**PUBLISHED, "sender": {"id": "a"}, "receiver": [{"id": "b"}]}
        ).encode(),
        "audit.json": b'{"audit": [{"event": "x", "by": {"id": "a"}, "timestamp": "t"}]}',
        "payload/metadata.json": json.dumps(
            {"id": ID, "studies": {"study_uid": STUDY, "series": [{"series_uid": "1"}]}}
        ).encode(),
        "payload/dicom/1.dcm": b"DICM",
    },
    "php": encrypted_members("php"),
    "rs": encrypted_members("rs"),
}


def judge_all(data: bytes) -> None:
    """Asks every reader of a stranger's archive: each answers, or refuses for a reason that it
    knows.
    """
    for look in (
        lambda: check_envelope(io.BytesIO(data), unopened=True),
        lambda: check_envelope(io.BytesIO(data), verify_hashes=True, key=RECIPIENT),
        lambda: read_manifest(io.BytesIO(data)),
    ):
        try:
            look()
        except Unforeseen as fault:
            raise AssertionError(repr(fault.__cause__)) from fault
        except EnvelopeError:
            pass
    found = verify(io.BytesIO(data), key=RECIPIENT)
    assert not any("report this" in one.hint for one in found.faults), found.faults


@pytest.mark.fault("S31")
@pytest.mark.parametrize("form", FORMS)
def test_bytes_changed_anywhere_are_right_or_refused(form: str) -> None:
    dice = random.Random(form)
    good = sealed(FORMS[form])
    for _ in range(by_form(250, 20_000)):
        data = bytearray(good)
        for _ in range(dice.choice([1, 1, 2, 8])):
            at = dice.randrange(len(data))
            kind = dice.randrange(4)
            if kind == 0:
                data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
            elif kind == 1:
                del data[at : at + dice.randrange(1, 40)]
            elif kind == 2:
                data[at:at] = dice.randbytes(dice.randrange(1, 40))
            else:
                data[at : at + 4] = struct.pack("<L", dice.choice([0, 2**31, 2**32 - 1, len(data)]))
            data = data or bytearray(b"x")
        judge_all(bytes(data))


VALUES: list[Any] = [
    None, True, 0, -1, 2**53, 1.5, "", "x", "x" * 5000, "\0", "😀", [], [[]], {}, {"": None},
    ["x"] * 300, {"id": []}, "sha256:" + "0" * 64, "2024-01-15T10:00:00Z", "9" * 400, "../..",
    "\u202e",
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, key))


@pytest.mark.fault("S31")
@pytest.mark.parametrize("form", FORMS)
def test_values_of_any_kind_anywhere_are_right_or_refused(form: str) -> None:
    content = FORMS[form]
    for name in (one for one in content if one.endswith(".json")):
        document = json.loads(content[name])
        for path in places(document):
            for value in VALUES:
                other = copy.deepcopy(document)
                at = other
                for key in path[:-1]:
                    at = at[key]
                if path:
                    at[path[-1]] = value
                else:
                    other = value
                judge_all(sealed({**content, name: json.dumps(other).encode()}))


@pytest.mark.fault("S31")
def test_an_unforeseen_error_of_a_reader_is_a_refusal_and_no_fault_of_ours(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last net: an error that nobody thought of, in the midst of a stranger's bytes."""

    def broken(*_: object) -> None:
        raise IndexError("nobody thought of this")

    monkeypatch.setattr(admission, "identity", broken)
    monkeypatch.setattr("fastjmix.jmix.read.verify.identity", broken)
    answer = gateway.post(GOOD)
    assert answer.status == 400
    assert "IndexError" in answer.json["error"]
    assert "report" in answer.json["hint"]
    assert not verify(io.BytesIO(GOOD)).ok


@pytest.mark.fault("S31")
def test_mutations_of_a_posted_envelope_are_never_a_500(gateway: Gateway) -> None:
    dice = random.Random(7)
    for data in (GOOD, encrypted_envelope("js")):
        for _ in range(by_form(60, 3000)):
            other = bytearray(data)
            other[dice.randrange(len(other))] ^= 1 << dice.randrange(8)
            del other[dice.randrange(len(other)) :]  # else an accepted archive would be passed on
            answer = gateway.post(bytes(other) or b"x")
            assert answer.status == 400, answer.body
            assert "internal" not in answer.json["error"]
