"""jmix/read/admission.py, unzip.py, digests.py: what an envelope must be, and one refusal for
each rule.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import blake3
import pytest

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.read.admission import EnvelopeSummary, Limits, check_envelope, read_manifest
from tests.support.envelopes import HARMONY, ID, IMAGE, PUBLISHED, STUDY, members, zipped


def check(data: bytes, **options: Any) -> EnvelopeSummary:
    return check_envelope(io.BytesIO(data), **options)


def refused(data: bytes, *words: str, **options: Any) -> None:
    with pytest.raises(EnvelopeError) as caught:
        check(data, **options)
    for word in words:
        assert word in caught.value.message


# -- accepted ------------------------------------------------------------------------------------


def test_harmony_envelope() -> None:
    found = check(zipped(members()))
    assert (found.id, found.profile, found.studies) == (ID, "harmony", (STUDY,))
    assert (found.instances, found.root, found.payload) == (1, "", "payload")
    assert found.members == ("manifest.json", "payload/metadata.json", IMAGE)


def test_published_envelope() -> None:
    content = {
        "manifest.json": json.dumps(PUBLISHED).encode(),
        "audit.json": b'{"audit": []}',
        "payload/metadata.json": json.dumps(
            {"id": ID, "studies": {"study_uid": STUDY, "series": [{"series_uid": "1.2"}]}}
        ).encode(),
        "payload/files.json": b"[]",
        "payload/files/report.pdf": b"%PDF",
        "payload/preview/1.2.jpg": b"\xff\xd8",
        "payload/dicom/1.2.3.dcm": b"DICM",
        "payload/dicom/1.2.4.dcm": b"DICM",
    }
    found = check(zipped(content, zipfile.ZIP_DEFLATED))
    assert (found.profile, found.studies, found.instances) == ("jmix-1.0", (STUDY,), 2)


def test_single_top_folder_and_folder_entries() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for folder in ("top/", "top/payload/", "top/payload/files/"):
            archive.writestr(folder, b"")
        for name, data in (members() | {"payload/files.json": b"[]"}).items():
            archive.writestr(f"top/{name}", data)
    found = check(buffer.getvalue())
    assert (found.root, found.payload, found.instances) == ("top/", "payload", 1)
    assert read_manifest(buffer) == members()["manifest.json"]


def test_another_payload_folder() -> None:
    content = members(manifest={"content": {"type": "directory", "path": "data/"}})
    moved = {name.replace("payload/", "data/"): data for name, data in content.items()}
    assert check(zipped(moved)).payload == "data"


def test_an_upper_case_id_is_the_same_id() -> None:
    assert check(zipped(members(manifest={"id": ID.upper()}))).id == ID


def test_metadata_without_studies() -> None:
    assert check(zipped(members(metadata={"studies": None}))).studies == ()


def test_archive_with_comment_and_data_descriptors() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise OSError("a pipe")

        def tell(self) -> int:
            raise OSError("a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members().items():
            archive.writestr(name, data)
        archive.comment = b"made by a stream"
    assert check(pipe.getvalue(), verify_hashes=True).id == ID


def zip64_end(data: bytes) -> bytes:
    """The same archive with ZIP64 end records (APPNOTE §4.3.14, §4.3.15)."""
    _, _, _, _, count, length, start, _ = struct.unpack("<4s4H2LH", data[-22:])
    record = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(data) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    return data[:-22] + record + locator + end


def test_zip64_end_records() -> None:
    assert check(zip64_end(zipped(members()))).id == ID


# -- the archive's structure ---------------------------------------------------------------------

GOOD = zipped(members())


@pytest.mark.parametrize("data", [b"", b"PK", b"not a zip", GOOD[:-1], GOOD[:-22], GOOD[:200]])
def test_not_an_archive(data: bytes) -> None:
    refused(data, "archive", "ZIP" if len(data) != len(GOOD) - 1 else "")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (GOOD + b"\0", "behind its end"),
        (b"#!/bin/sh\n" + GOOD, "central directory that is not where"),
        (GOOD[:-22] + b"gap" + GOOD[-22:], "central directory that is not where"),
        (GOOD[:-22] + GOOD, "central directory that is not where"),
        (zip64_end(b"junk" + GOOD), "central directory that is not where"),
    ],
    ids=["tail", "prefix", "gap", "two directories", "zip64 prefix"],
)
def test_one_reading_only(data: bytes, word: str) -> None:
    refused(data, "archive", word)


def test_zip64_locator_must_point_to_its_record() -> None:
    data = bytearray(zip64_end(GOOD))
    at = data.rfind(b"PK\x06\x07")
    for elsewhere in (0, at - 57, 2**63):
        data[at + 8 : at + 16] = struct.pack("<Q", elsewhere)
        refused(bytes(data), "ZIP64 locator")


def test_two_end_records_that_disagree() -> None:
    data = bytearray(zip64_end(GOOD))
    data[-14:-10] = struct.pack("<HH", 2, 2)
    refused(bytes(data), "contradict")


def test_entry_count_must_be_true() -> None:
    data = bytearray(GOOD)
    data[-14:-10] = struct.pack("<HH", 2, 2)
    refused(bytes(data), "has 3 entries", "says 2")


def test_local_header_must_agree_with_the_directory() -> None:
    local_name = GOOD.replace(b"payload/metadata", b"payload/METAdata", 1)
    refused(local_name, "payload/metadata.json", "contradicts")
    local_crc = bytearray(GOOD)
    local_crc[14] ^= 1
    refused(bytes(local_crc), "manifest.json", "contradicts")


def test_members_that_share_bytes() -> None:
    # the third entry of the directory points at the first member's local header
    data = bytearray(zipped({"aa": b"1", "bb": b"2", "cc": b"3"}))
    third = data.rfind(b"PK\x01\x02")
    data[third + 42 : third + 46] = struct.pack("<L", 0)
    refused(bytes(data), "overlaps")


def patched(offset: int, fmt: str, value: int) -> bytes:
    """GOOD with a field of the last central directory header changed, and of its local header."""
    data = bytearray(GOOD)
    central = data.rfind(b"PK\x01\x02")
    local = struct.unpack_from("<L", data, central + 42)[0]
    struct.pack_into(fmt, data, central + offset, value)
    if offset < 30:
        struct.pack_into(fmt, data, local + offset - 2, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("offset", "fmt", "value", "word"),
    [
        (8, "<H", 0x0001, "encrypted"),
        (8, "<H", 0x0040, "encrypted"),
        (10, "<H", 12, "method 12"),
        (10, "<H", 93, "method 93"),
        (38, "<L", 0o120777 << 16, "symbolic link"),
        (24, "<L", 7, "two sizes differ"),
    ],
)
def test_kinds_of_member_that_are_refused(offset: int, fmt: str, value: int, word: str) -> None:
    refused(patched(offset, fmt, value), IMAGE, word)


@pytest.mark.parametrize(
    "name",
    [
        "../manifest.json",
        "payload/../../x",
        "payload/..",
        "/etc/passwd",
        "C:/x",
        "payload\\x",
        "payload//x",
        "./x",
        "payload/a\nb",
        "payload/" + "x" * 2000,
    ],
)
def test_names_that_are_refused(name: str) -> None:
    refused(zipped(members() | {name: b"x"}), "name")


def test_nul_in_a_name() -> None:
    refused(zipped(members() | {"payload/xxx.dcm": b"x"}).replace(b"xxx", b"x\0x"), "NUL")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice() -> None:
    buffer = io.BytesIO(GOOD)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("manifest.json", b"{}")
    refused(buffer.getvalue(), "manifest.json", "twice")


def test_a_file_that_is_also_a_folder() -> None:
    refused(zipped(members() | {"payload/series_1": b""}), "payload/series_1", "folder")


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(max_members=2), "max_members is 2"),
        (Limits(max_directory_bytes=100), "max_directory_bytes is 100"),
        (Limits(max_manifest_bytes=10), "max_manifest_bytes is 10"),
        (Limits(max_metadata_bytes=10), "max_metadata_bytes is 10"),
        (Limits(max_unpacked_bytes=100), "max_unpacked_bytes is 100"),
        (Limits(max_name_bytes=20), "max_name_bytes, 20"),
    ],
)
def test_bounds_are_named(limits: Limits, word: str) -> None:
    refused(GOOD, word, limits=limits)


def test_limits_are_inclusive() -> None:
    content = members()
    exact = Limits(
        max_members=3,
        max_manifest_bytes=len(content["manifest.json"]),
        max_metadata_bytes=len(content["payload/metadata.json"]),
        max_unpacked_bytes=sum(map(len, content.values())),
        max_name_bytes=len(IMAGE),
    )
    assert check(GOOD, limits=exact).id == ID


def test_a_bomb_that_lies_about_its_size_is_not_unpacked() -> None:
    bomb = zipped(members() | {"manifest.json": b" " * (200 << 20)}, zipfile.ZIP_DEFLATED)
    data = bytearray(bomb)
    central = data.find(b"PK\x01\x02")
    struct.pack_into("<L", data, central + 24, 100)
    struct.pack_into("<L", data, 22, 100)
    tracemalloc.start()
    try:
        refused(bytes(data), "manifest.json", "damaged")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


# -- the documents -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"payload/metadata.json": b"{}"}, ("manifest.json", "missing")),
        ({"a/manifest.json": b"{}", "b/x": b""}, ("manifest.json", "missing")),
        (members() | {"manifest.json": b"{"}, ("manifest.json", "not JSON")),
        (members() | {"manifest.json": b"[]"}, ("manifest.json", "object, not an array")),
        (members() | {"manifest.json": b"\xff{}"}, ("manifest.json", "not JSON")),
        (members() | {"payload/metadata.json": b"nope"}, ("payload/metadata.json", "not JSON")),
        (members() | {"payload/metadata.json": b"7"}, ("payload/metadata.json", "a number")),
        (members() | {"payload/files/a.pdf": b""}, ("payload/files.json", "missing")),
        ({"manifest.json": members()["manifest.json"]}, ("payload/metadata.json", "missing")),
    ],
)
def test_documents_that_are_refused(content: dict[str, bytes], words: tuple[str, ...]) -> None:
    refused(zipped(content), *words)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"id": None}, '"id"'),
        ({"id": ""}, "UUID"),
        ({"id": 5}, "UUID"),
        ({"id": "{" + ID + "}"}, "UUID"),
        ({"id": ID.replace("-", "")}, "UUID"),
        ({"id": "../../etc/passwd"}, "UUID"),
        ({"version": 2}, '"version"'),
        ({"version": True}, '"version"'),
        ({"version": ""}, '"version"'),
        ({"version": None}, '"version"'),
        ({"type": "letter"}, '"type"'),
        ({"content": None}, '"content"'),
        ({"content": {"type": "file", "path": "payload"}}, '"content"'),
        ({"content": {"type": "directory", "path": ""}}, "content.path"),
        ({"content": {"type": "directory"}}, "content.path"),
        ({"security": []}, '"security"'),
        ({"files": {}}, '"files"'),
        ({"files": ["x"]}, "files[0]"),
        ({"files": [{"size_bytes": 1}]}, "files[0]"),
        ({"files": [{"path": "payload/absent.dcm"}]}, "not in the archive"),
        ({"files": [{"path": IMAGE, "size_bytes": 39}]}, "says 39 bytes"),
        ({"files": [{"path": IMAGE, "size_bytes": "40"}]}, 'says "40" bytes'),
        ({"files": [{"path": IMAGE, "hash": "md5:0"}]}, "files[0].hash"),
    ],
)
def test_manifests_that_are_refused(changes: dict[str, Any], word: str) -> None:
    refused(zipped(members(manifest=changes)), "manifest.json", word)


@pytest.mark.parametrize("studies", [[], "x", {"": {}}, {"1" * 129: {}}, {"study_uid": 5}])
def test_studies_that_are_refused(studies: object) -> None:
    refused(zipped(members(metadata={"studies": studies})), "metadata.json", "studies")


def test_encrypted_envelopes_are_recognised() -> None:
    sealed = {"security": {"encryption": {"algorithm": "AES-256-GCM"}}}
    refused(zipped(members(manifest=sealed)), "payload.encrypted", "missing")
    content = members(manifest=sealed) | {"payload.encrypted": b"..."}
    refused(zipped(content), "decryption not available here")


# -- hashes --------------------------------------------------------------------------------------

VECTOR = {
    "files.json": b"[]",
    "metadata.json": b"{}",
    "series_1/image_001.dcm": b"DICM",
    "series_10/image_001.dcm": b"A",
}
TREE = "sha256:1a140015a5153e41a1042dcd41481cd52cb83c40609712887787a1ef2f2c698f"
STREAM = "sha256:eac9f801b7fb7c2c191fc8936faa35ed1c2442843da1cd053adb2d6231ec0b1f"


@pytest.mark.parametrize("promised", [TREE, STREAM, TREE.upper().replace("SHA", "sha")])
def test_payload_hash_of_the_vector(promised: str) -> None:
    content = {f"payload/{path}": data for path, data in VECTOR.items()}
    manifest = {**HARMONY, "security": {"payload_hash": promised}}
    content["manifest.json"] = json.dumps(manifest).encode()
    assert check(zipped(content), verify_hashes=True).id == ID
    content["payload/series_1/image_001.dcm"] = b"DICN"
    refused(zipped(content), "security.payload_hash", "match", verify_hashes=True)
    assert check(zipped(content)).id == ID  # not asked, not read


def test_skipped_payload_hash_is_no_hash() -> None:
    content = members(manifest={"security": {"payload_hash": "sha256:skipped"}})
    assert check(zipped(content), verify_hashes=True).id == ID


def test_payload_hash_in_another_form() -> None:
    content = members(manifest={"security": {"payload_hash": "sha1:00"}})
    refused(zipped(content), "security.payload_hash", "sha256", verify_hashes=True)


@pytest.mark.parametrize("base", ["payload/", ""])
@pytest.mark.parametrize("make", [hashlib.sha256, blake3.blake3])
def test_listed_hashes(base: str, make: Callable[[bytes], Any]) -> None:
    name = "blake3" if make is blake3.blake3 else "sha256"
    entry = {
        "path": f"{base}series_1/image_001.dcm",
        "size_bytes": 40,
        "hash": f"{name}:{make(b'DICM' * 10).hexdigest()}",
    }
    content = members(manifest={"files": [entry]})
    assert check(zipped(content), verify_hashes=True).id == ID
    content[IMAGE] = b"DICN" * 10
    refused(zipped(content), IMAGE, "does not match its hash", verify_hashes=True)
    assert check(zipped(content)).id == ID


def test_damage_in_an_image_is_found_unless_it_was_asked_for_before() -> None:
    data = GOOD.replace(b"DICMDICM", b"DICMdICM", 1)
    assert check(data, contents=False).id == ID
    refused(data, IMAGE, "damaged")
    refused(data, IMAGE, "damaged", verify_hashes=True)


def test_damage_in_a_document_is_always_found() -> None:
    refused(GOOD.replace(b'"envelope"', b'"Envelope"', 1), "manifest.json", "damaged")


@pytest.mark.parametrize("seed", range(8))
def test_any_flipped_byte_is_refused_or_harmless(seed: int) -> None:
    """Never anything but an answer or EnvelopeError, whichever byte is wrong."""
    for at in range(seed, len(GOOD), 8):
        data = bytearray(GOOD)
        data[at] ^= 0xFF
        with contextlib.suppress(EnvelopeError):
            assert check(bytes(data), verify_hashes=True).studies == (STUDY,)
