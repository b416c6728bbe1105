"""jmix/write/envelope.py, harmony.py, profiles.py: names by arrival, documents to the letter."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.dicom.dataset import Description
from fastjmix.errors import EnvelopeError
from fastjmix.jmix import digests
from fastjmix.jmix.write import harmony, profiles
from fastjmix.jmix.write.envelope import Contents, Document, Options
from tests import reference

ID = "550e8400-e29b-41d4-a716-446655440000"
SEALED_AT = 1705312800.75  # 2024-01-15T10:00:00Z and a bit
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, JPEG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50"

CHEST = Description(
    patient_name="DOE^JOHN",
    study_date="20240115",
    modality="CT",
    series_number=2,
    series_description="Thorax · nativ",
    body_part="CHEST",
)
BARE = Description()


def contents() -> Contents:
    return Contents(harmony.member_name)


def put(
    into: Contents,
    study: str,
    series: str,
    data: bytes = b"DICM",
    uid: str = "",
    description: Description = CHEST,
    algorithm: str | None = "sha256",
    number: int | None = None,
) -> str:
    """Adds an instance whose whole member is `data`."""
    uid = uid or f"1.2.{len(into)}"
    expected = into.next_name(study, series, uid)
    assert into.next_name(study, series, uid) == expected
    one = into.add(
        study,
        series,
        CT,
        uid,
        EXPLICIT,
        number,
        len(data),
        None if algorithm is None else reference.digest(algorithm, data),
        description,
    )
    assert one.name == expected
    return one.name.decode()


def written(held: Contents, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(manifest, metadata) as read back."""
    documents = harmony.documents(held, Options(ID, SEALED_AT, **options))
    assert [document.name for document in documents] == [b"manifest.json", b"payload/metadata.json"]
    manifest, metadata = (orjson.loads(document.data) for document in documents)
    return manifest, metadata


# -- names -----------------------------------------------------------------------------------


def test_series_count_through_all_studies() -> None:
    held = contents()
    assert put(held, "1", "1.1") == "payload/series_1/image_001.dcm"
    assert put(held, "1", "1.1") == "payload/series_1/image_002.dcm"
    assert put(held, "2", "2.1") == "payload/series_2/image_001.dcm"
    assert put(held, "1", "1.2") == "payload/series_3/image_001.dcm"
    assert put(held, "1", "1.1") == "payload/series_1/image_003.dcm"
    # A Series Instance UID that occurs in two studies is two series.
    assert put(held, "2", "1.1") == "payload/series_4/image_001.dcm"
    assert len(held) == 6
    assert held.size_bytes == 24
    assert list(held.studies) == ["1", "2"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=40))
def test_names_are_those_of_the_slow_twin(arrivals: list[tuple[str, str]]) -> None:
    held = contents()
    names = [put(held, *arrival) for arrival in arrivals]
    assert names == reference.harmony_tree(arrivals)
    assert sorted(instance.name.decode() for instance in held.instances()) == sorted(names)


def test_a_name_that_was_not_used_stays_free() -> None:
    held = contents()
    first = held.next_name("1", "1.1", "1.1.1")
    # Neither has been added: each would be the first.
    assert held.next_name("1", "1.2", "1.2.1") == first
    assert put(held, "1", "1.2") == first.decode()
    assert held.next_name("1", "1.1", "1.1.1") == b"payload/series_2/image_001.dcm"


# -- metadata.json ---------------------------------------------------------------------------


def test_metadata_to_the_letter() -> None:
    held = contents()
    put(held, "1.2", "1.2.1", b"first", "1.2.1.1", number=1)
    put(held, "1.2", "1.2.1", b"second!", "1.2.1.2", number=-4)
    put(held, "1.3", "1.3.1", b"", "1.3.1.1", BARE)
    documents = harmony.documents(held, Options(ID, SEALED_AT, skip_hashing=True))
    text = documents[1].data.decode()
    assert text == (
        f'{{"id":"{ID}","studies":{{'
        '"1.2":{"study_uid":"1.2","patient_name":"DOE^JOHN","study_date":"20240115",'
        '"modality":"CT","series":[{"series_uid":"1.2.1","modality":"CT","series_number":2,'
        '"body_part":"CHEST","description":"Thorax · nativ","path":"series_1","instance_count":2,'
        '"instances":['
        f'{{"sop_instance_uid":"1.2.1.1","sop_class_uid":"{CT}",'
        f'"transfer_syntax_uid":"{EXPLICIT}","instance_number":1,'
        '"file":"series_1/image_001.dcm","size_bytes":5},'
        f'{{"sop_instance_uid":"1.2.1.2","sop_class_uid":"{CT}",'
        f'"transfer_syntax_uid":"{EXPLICIT}","instance_number":-4,'
        '"file":"series_1/image_002.dcm","size_bytes":7}]}]},'
        '"1.3":{"study_uid":"1.3","patient_name":"","study_date":"","modality":"",'
        '"series":[{"series_uid":"1.3.1","modality":"","path":"series_2","instance_count":1,'
        f'"instances":[{{"sop_instance_uid":"1.3.1.1","sop_class_uid":"{CT}",'
        f'"transfer_syntax_uid":"{EXPLICIT}",'
        '"file":"series_2/image_001.dcm","size_bytes":0}]}]}}}'
    )


def test_the_same_instance_uid_twice_is_flagged_on_the_later() -> None:
    held = contents()
    put(held, "1", "1.1", b"these bytes", "1.2.3")
    assert [twin.conflict for twin in held.twins("1.2.3")] == [False]
    assert held.twins("1.2.4") == ()
    put(held, "1", "1.2", b"those bytes", "1.2.3")
    assert [twin.conflict for twin in held.twins("1.2.3")] == [False, True]
    _, metadata = written(held)
    first, second = (series["instances"][0] for series in metadata["studies"]["1"]["series"])
    assert "conflict" not in first
    assert second["conflict"] is True
    assert first["file"] != second["file"]


# -- manifest.json ---------------------------------------------------------------------------


def test_manifest_to_the_letter() -> None:
    held = contents()
    put(held, "1.2", "1.2.1", b"DICM", "1.2.1.1")
    manifest, metadata = harmony.documents(held, Options(ID, SEALED_AT))
    payload = {"metadata.json": metadata.data, "series_1/image_001.dcm": b"DICM"}
    shown = {
        path: f"sha256:{reference.digest('sha256', data).hex()}" for path, data in payload.items()
    }
    assert manifest.data.decode() == (
        f'{{"id":"{ID}","type":"envelope","version":1,'
        '"content":{"type":"directory","path":"payload"},'
        '"timestamp":"2024-01-15T10:00:00Z",'
        f'"security":{{"payload_hash":"{reference.payload_hash(payload, "sha256")}"}},"files":['
        f'{{"path":"payload/metadata.json","size_bytes":{len(metadata.data)},'
        f'"hash":"{shown["metadata.json"]}"}},'
        '{"path":"payload/series_1/image_001.dcm","size_bytes":4,'
        f'"hash":"{shown["series_1/image_001.dcm"]}"}}]}}'
    )


@pytest.mark.parametrize("skip_hashing", [False, True])
@pytest.mark.parametrize("skip_listing", [False, True])
@pytest.mark.parametrize("digest", ["sha256", "blake3"])
def test_what_is_skipped_is_absent(skip_hashing: bool, skip_listing: bool, digest: str) -> None:
    held = contents()
    for _ in range(3):
        put(held, "1", "1.1", algorithm=None if skip_hashing else digest)
    manifest, metadata = written(
        held, skip_hashing=skip_hashing, skip_listing=skip_listing, digest=digest
    )
    check_reference(manifest, metadata)
    assert ("security" in manifest) == (not skip_hashing)
    assert ("files" in manifest) == (not skip_listing)
    for entry in manifest.get("files", ()):
        assert ("hash" in entry) == (not skip_hashing)
        assert entry.get("hash", f"{digest}:").startswith(f"{digest}:")
    assert "null" not in orjson.dumps(manifest).decode()
    assert "skipped" not in orjson.dumps(manifest).decode()
    assert metadata["studies"]["1"]["series"][0]["instance_count"] == 3  # always complete


def test_a_digest_that_was_not_computed_is_our_fault() -> None:
    held = contents()
    put(held, "1", "1.1", algorithm=None)
    with pytest.raises(EnvelopeError, match=r"payload/series_1/image_001\.dcm"):
        written(held)
    written(held, skip_hashing=True)


def test_nothing_of_a_patient_in_the_manifest() -> None:
    held = contents()
    secret = Description(
        patient_name="SECRETNAME^S",
        study_date="19770707",
        modality="ZZ",
        series_number=8989,
        series_description="SECRETTEXT",
        body_part="SECRETPART",
    )
    put(held, "7.7.7", "7.7.7.8", b"DICM", "7.7.7.8.9", secret, number=6767)
    manifest, metadata = harmony.documents(held, Options(ID, SEALED_AT))
    for reported in ("SECRETNAME", "19770707", "ZZ", "8989", "SECRETTEXT", "SECRETPART", "7.7.7",
                 "6767"):  # fmt: skip
        assert reported in metadata.data.decode()
        assert reported not in manifest.data.decode()


def test_text_of_a_peer_is_escaped() -> None:
    held = contents()
    nasty = Description(patient_name='"}\x00\x1b\n<é山>^\\', modality="\u2028")
    put(held, '"1', "1.1", description=nasty)
    _, metadata = written(held)
    assert metadata["studies"]['"1']["patient_name"] == nasty.patient_name


# -- payload hash ----------------------------------------------------------------------------


parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1)


@settings(deadline=None)
@given(
    st.dictionaries(parts, st.lists(st.binary(), max_size=4)),
    st.sampled_from(["sha256", "blake3"]),
    st.randoms(),
)
def test_stream_hash_is_that_of_the_slow_twin(
    files: dict[str, list[bytes]], algorithm: str, random: Random
) -> None:
    """Whatever the order of the paths, and however each file is cut into pieces."""
    paths = list(files)
    random.shuffle(paths)
    twin = reference.stream_hash({p: b"".join(cut) for p, cut in files.items()}, algorithm)
    assert digests.stream_hash(algorithm, paths, files.__getitem__) == twin
    passing = digests.StreamHash(algorithm)
    for path in paths:
        assert list(passing.hash_file(path, files[path])) == files[path]
    assert passing.in_order == (paths == sorted(paths, key=str.encode))
    assert not passing.in_order or str(passing) == twin


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["1", "2"]), st.sampled_from(["1.1", "1.2"]), st.binary()),
        max_size=12,
    ),
    st.sampled_from(["sha256", "blake3"]),
)
def test_documents_describe_the_payload(
    arrivals: list[tuple[str, str, bytes]], algorithm: str
) -> None:
    held = contents()
    payload = {}
    for study, series, data in arrivals:
        payload[put(held, study, series, data, algorithm=algorithm)] = data
    documents = harmony.documents(held, Options(ID, SEALED_AT, digest=algorithm))  # type: ignore[arg-type]
    payload["payload/metadata.json"] = documents[1].data
    manifest, metadata = (orjson.loads(document.data) for document in documents)
    check_reference(manifest, metadata)

    listed = {entry["path"]: entry for entry in manifest["files"]}
    assert listed.keys() == payload.keys()
    for path, data in payload.items():
        assert listed[path]["size_bytes"] == len(data)
        assert listed[path]["hash"] == f"{algorithm}:{reference.digest(algorithm, data).hex()}"
    below = {path.removeprefix("payload/"): data for path, data in payload.items()}
    assert manifest["security"]["payload_hash"] == reference.payload_hash(below, algorithm)
    assert {f"payload/{file}" for file in files_of(metadata)} == payload.keys() - {
        "payload/metadata.json"
    }


def files_of(metadata: dict[str, Any]) -> Iterable[str]:
    for study in metadata["studies"].values():
        for series in study["series"]:
            for instance in series["instances"]:
                assert instance["file"].startswith(f"{series['path']}/image_")
                yield instance["file"]


def check_reference(manifest: dict[str, Any], metadata: dict[str, Any]) -> None:
    """The reference document's keys, with exactly its types; of additions, only the known."""
    assert list(manifest)[:4] == ["id", "type", "version", "content"]
    assert str(uuid.UUID(manifest["id"])) == manifest["id"]
    assert manifest["type"] == "envelope"
    assert type(manifest["version"]) is int
    assert manifest["version"] == 1
    assert manifest["content"] == {"type": "directory", "path": "payload"}
    assert set(manifest) <= {"id", "type", "version", "content", "timestamp", "security", "files"}
    assert list(metadata) == ["id", "studies"]
    assert metadata["id"] == manifest["id"]
    for uid, study in metadata["studies"].items():
        assert list(study) == ["study_uid", "patient_name", "study_date", "modality", "series"]
        assert study["study_uid"] == uid
        assert all(type(study[key]) is str for key in list(study)[:4])
        assert study["series"]
        for series in study["series"]:
            assert series["instance_count"] == len(series["instances"]) > 0
            assert set(series) <= {
                "series_uid", "modality", "series_number", "body_part", "description", "path",
                "instance_count", "instances",
            }  # fmt: skip


# -- profiles --------------------------------------------------------------------------------


def test_profiles_by_name() -> None:
    assert profiles.NAMES == ("harmony", "jmix-1.0")
    profile = profiles.get("harmony")
    assert profile.member_name(1, 1, "1.2", 0) == b"payload/series_1/image_001.dcm"
    assert isinstance(profile.documents(contents(), Options(ID, 0.0))[0], Document)
    with pytest.raises(KeyError):
        profiles.get("jmix-9")


def test_an_envelope_of_ten_thousand_is_complete() -> None:
    held = contents()
    for index in range(10_000):
        held.add("1", f"1.{index % 7}", CT, f"1.2.{index}", JPEG, index, 9, bytes(32), BARE)
    manifest, metadata = written(held)
    assert len(manifest["files"]) == 10_001
    assert len(set(files_of(metadata))) == 10_000
