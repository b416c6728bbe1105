"""jmix/write/published.py, parties.py, hashes.py: the published layout, whatever the data sets
say.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastjmix.dicom.dataset import Description
from fastjmix.errors import EnvelopeError
from fastjmix.jmix import digests, keys
from fastjmix.jmix.write import assertions, parties, published, signing
from fastjmix.jmix.write.envelope import Contents, Options
from tests import reference
from tests.support import published_rules

ID = "550e8400-e29b-41d4-a716-446655440000"
SEALED_AT = 1705312800.75  # 2024-01-15T10:00:00Z and a bit
CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

CHEST = Description(
    patient_name="DOE^JOHN^A^DR^JR",
    study_date="20240115",
    modality="CT",
    series_number=2,
    series_description="Thorax · nativ",
    body_part="CHEST",
    patient_id="MRN 7",
    patient_birth_date="19700131",
    patient_sex="M",
    study_description="Follow-up",
)
CLINIC = parties.Entity("org:example.clinic")
PLAIN = parties.Published(CLINIC, (parties.Entity("org:example.archive"),))


def put(
    into: Contents, uid: str, data: bytes = b"DICM", series: str = "1.2.1", told: Any = CHEST
) -> str:
    expected = into.next_name("1.2", series, uid)
    digest = reference.digest("sha256", data)
    one = into.add("1.2", series, CT, uid, EXPLICIT, None, len(data), digest, told)
    assert one.name == expected
    return one.name.decode()


def written(held: Contents, **options: Any) -> dict[str, bytes]:
    """Documents by name, each of them valid."""
    given_options = {"published": PLAIN, **options}
    found = published.documents(held, Options(ID, SEALED_AT, **given_options))
    names = [document.name.decode() for document in found]
    assert names[0] == "manifest.json"
    assert len(set(names)) == len(names)
    documents = {document.name.decode(): document.data for document in found}
    for name, data in documents.items():
        if name.endswith(".json"):
            document = json.loads(data)
            published_rules.check(name.removeprefix("payload/").removesuffix(".json"), document)
            assert_says_something(document, name)
    return documents


def assert_says_something(value: Any, path: str) -> None:
    """Nothing is null, and nothing is empty."""
    assert value not in (None, "", {}, []), path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, held in pairs:
            assert_says_something(held, f"{path}.{key}")


# -- names -----------------------------------------------------------------------------------


def test_a_file_is_named_by_its_instance() -> None:
    held = Contents(published.member_name)
    assert put(held, "1.2.3") == "payload/dicom/1.2.3.dcm"
    assert put(held, "1.2.3", b"other bytes") == "payload/dicom/1.2.3_2.dcm"
    assert put(held, "1.2.3", b"third", series="1.2.2") == "payload/dicom/1.2.3_3.dcm"
    assert put(held, "1.2.3.2") == "payload/dicom/1.2.3.2.dcm"


@pytest.mark.parametrize(
    "uid",
    [
        "", ".", "..", "...", ".1", "1.", "1..2", "../1", "1/2", "1\\2", "1_2", "1.2\n", "\n1.2",
        "-1", "1.2\0", "1 ", " 1", "١", "²", "1.2.a", "CON", "1" * 65, "/1", "1.2_2",
        "instance_1_1",
    ],
)  # fmt: skip
def test_what_is_no_uid_is_no_name(uid: str) -> None:
    held = Contents(published.member_name)
    assert put(held, uid) == "payload/dicom/instance_1_1.dcm"
    assert put(held, uid, b"again") == "payload/dicom/instance_1_2.dcm"
    assert put(held, "1" * 64) == f"payload/dicom/{'1' * 64}.dcm"


PLAUSIBLE = st.one_of(
    st.text("0123456789._", max_size=6), st.text(max_size=4), st.sampled_from(["1.2", "1.2.3"])
)


@given(st.lists(st.tuples(PLAUSIBLE, st.sampled_from(["1.2.1", "1.2.2"])), max_size=40))
def test_names_neither_clash_nor_escape(arrivals: list[tuple[str, str]]) -> None:
    held = Contents(published.member_name)
    names = [put(held, uid, series=series) for uid, series in arrivals]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"payload/dicom/[0-9a-z][0-9a-z._]{0,80}\.dcm", name), name
        assert ".." not in name
    # In the same order another process gives the same names: recovery does.
    again = Contents(published.member_name)
    assert [put(again, uid, series=series) for uid, series in arrivals] == names


# -- documents -------------------------------------------------------------------------------


def test_the_documents_to_the_letter() -> None:
    held = Contents(published.member_name)
    put(held, "1.2.1.1", b"first")
    put(held, "1.2.1.1", b"other")
    documents = written(held)
    assert list(documents) == [
        "manifest.json", "audit.json", "payload/metadata.json", "payload/files.json",
    ]  # fmt: skip
    hashed = reference.payload_hash(
        {
            "metadata.json": documents["payload/metadata.json"],
            "files.json": documents["payload/files.json"],
            "dicom/1.2.1.1.dcm": b"first",
            "dicom/1.2.1.1_2.dcm": b"other",
        },
        "sha256",
    )
    assert documents["manifest.json"].decode() == (
        f'{{"version":"1.0","id":"{ID}","timestamp":"2024-01-15T10:00:00Z",'
        '"sender":{"id":"org:example.clinic"},"receiver":[{"id":"org:example.archive"}],'
        f'"security":{{"payload_hash":"{hashed}"}}}}'
    )
    assert documents["audit.json"].decode() == (
        '{"audit":[{"event":"created","by":{"id":"org:example.clinic"},'
        '"timestamp":"2024-01-15T10:00:00Z"}]}'
    )
    described = (
        f'"sop_instance_uid":"1.2.1.1","sop_class_uid":"{CT}","transfer_syntax_uid":"{EXPLICIT}"'
    )
    assert documents["payload/metadata.json"].decode() == (
        f'{{"version":"1.0","id":"{ID}","timestamp":"2024-01-15T10:00:00Z",'
        '"patient":{"id":"MRN 7","name":{"family":"DOE","given":["JOHN","A"],"prefix":"DR",'
        '"suffix":"JR","text":"DOE^JOHN^A^DR^JR"},"dob":"1970-01-31","sex":"M"},'
        '"studies":{"study_description":"Follow-up","study_uid":"1.2","series":[{'
        '"series_uid":"1.2.1","modality":"CT","series_number":2,"body_part":"CHEST",'
        '"description":"Thorax · nativ","instance_count":2,"instances":['
        f'{{{described},"file":"dicom/1.2.1.1.dcm","size_bytes":5}},'
        f'{{{described},"file":"dicom/1.2.1.1_2.dcm","size_bytes":5,"conflict":true}}]}}]}}}}'
    )
    listed = json.loads(documents["payload/files.json"])
    assert [entry["file"] for entry in listed] == [
        "metadata.json", "dicom/1.2.1.1.dcm", "dicom/1.2.1.1_2.dcm",
    ]  # fmt: skip
    assert listed[1]["hash"] == "sha256:" + reference.digest("sha256", b"first").hex()


def test_a_data_set_that_says_nothing() -> None:
    held = Contents(published.member_name)
    put(held, "1.2.1.1", told=Description())
    metadata = json.loads(written(held)["payload/metadata.json"])
    assert metadata["patient"] == {"id": "UNKNOWN"}
    assert metadata["studies"]["series"][0]["modality"] == "OT"


@pytest.mark.parametrize(
    ("person", "name"),
    [
        ("DOE", {"family": "DOE", "text": "DOE"}),
        ("^JANE", {"given": ["JANE"], "text": "^JANE"}),
        ("^^^^", None),
        ("=", None),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            {
                "family": "Yamada", "given": ["Tarou"],
                "text": "Yamada^Tarou=山田^太郎=やまだ^たろう",
            },
        ),
        ("=山田^太郎", {"family": "山田", "given": ["太郎"], "text": "=山田^太郎"}),
        (
            "A^B^C^D^E^F^G",
            {
                "family": "A", "given": ["B", "C"], "prefix": "D", "suffix": "E",
                "text": "A^B^C^D^E^F^G",
            },
        ),
    ],
)  # fmt: skip
def test_person_names(person: str, name: dict[str, Any] | None) -> None:
    held = Contents(published.member_name)
    put(held, "1.2.1.1", told=Description(patient_name=person))
    assert json.loads(written(held)["payload/metadata.json"])["patient"].get("name") == name


@pytest.mark.parametrize(
    ("born", "dob"),
    [
        ("19700131", "1970-01-31"), ("20000229", "2000-02-29"), ("19000229", None), ("1970", None),
        ("00000000", None), ("1970.01.31", None), ("19700131-", None), ("１９７００１３１", None),
    ],
)  # fmt: skip
def test_days_of_birth(born: str, dob: str | None) -> None:
    held = Contents(published.member_name)
    put(held, "1.2.1.1", told=Description(patient_birth_date=born))
    assert json.loads(written(held)["payload/metadata.json"])["patient"].get("dob") == dob


# -- every document, whatever it is made of --------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
filled = words.filter(str.strip)
descriptions = st.builds(
    Description,
    patient_name=st.one_of(words, st.text("ÄB^= é山", max_size=20)),
    study_date=words,
    modality=words,
    series_number=st.none() | st.integers(-(10**11), 10**11),
    series_description=words,
    body_part=words,
    patient_id=words,
    patient_birth_date=st.one_of(words, st.from_regex(r"\A[0-9]{8}\Z")),
    patient_sex=st.one_of(words, st.sampled_from("MFO")),
    study_description=words,
)
entities = st.builds(
    parties.Entity,
    id=filled,
    name=st.none() | filled,
    contact=st.none() | filled | st.builds(parties.ContactPoint, filled, filled),
)
consents = st.builds(
    parties.Consent,
    status=st.sampled_from(["granted", "denied", "unknown"]),
    scope=st.lists(st.sampled_from(["treatment", "research", "patient"])).map(tuple),
    method=st.none() | filled,
    signed_on=st.none() | st.dates().map(str),
)
everyone = st.builds(
    parties.Published,
    sender=entities,
    receivers=st.lists(entities, min_size=1, max_size=3).map(tuple),
    requester=st.none() | entities,
    classification=st.none() | st.sampled_from(["confidential", "sensitive", "de-identified"]),
    custom_tags=st.lists(filled, max_size=3).map(tuple),
    consent=st.none() | consents,
    deid=st.lists(filled, max_size=3).map(tuple),
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["1.2.1.1", "1.2.1.2", "..", "1.2.1.3"]),
            st.sampled_from(["1.2.1", "1.2.2", "x", "é"]),
            st.binary(max_size=4),
            descriptions,
        ),
        min_size=1,
        max_size=8,
    ),
    everyone,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["tree", "stream"]),
)
def test_every_document_is_valid(
    arrivals: list[tuple[str, str, bytes, Description]],
    told: parties.Published,
    skip_hashing: bool,
    skip_listing: bool,
    form: str,
) -> None:
    held = Contents(published.member_name)
    payload = {put(held, u, data, s, d): data for u, s, data, d in arrivals}
    assert len(payload) == len(arrivals)
    documents = written(
        held,
        published=told,
        skip_hashing=skip_hashing,
        skip_listing=skip_listing,
        payload_hash=form,
        read=lambda name: [payload[name.decode()]],
    )
    manifest = json.loads(documents["manifest.json"])
    assert ("payload/files.json" in documents) == (not skip_listing)
    assert ("payload_hash" in manifest.get("security", {})) == (not skip_hashing)
    payload |= {name: d for name, d in documents.items() if name.startswith("payload/")}
    below = {name.removeprefix("payload/"): data for name, data in payload.items()}
    if not skip_hashing:
        # tests/reference.py shares no code with the writer.
        twin = {"tree": reference.payload_hash, "stream": reference.stream_hash}[form]
        assert manifest["security"]["payload_hash"] == twin(below, "sha256")
        members = [
            digests.File(path, len(data), reference.digest("sha256", data).hex())
            for path, data in below.items()
        ]
        forms = digests.payload_hashes("sha256", members, ["dicom"], lambda path: [below[path]])
        expected = dict(zip(["tree", "stream"], forms, strict=True))[form]
        assert manifest["security"]["payload_hash"] == expected
    for entry in json.loads(documents.get("payload/files.json", b"[]")):
        assert entry["size_bytes"] == len(below[entry["file"]])
        assert ("hash" in entry) == (not skip_hashing)


def test_many_series_are_valid_and_complete() -> None:
    held = Contents(published.member_name)
    for number in range(3000):
        put(held, f"1.2.1.{number}", series=f"1.2.{number % 700}")
    documents = written(held)
    series = json.loads(documents["payload/metadata.json"])["studies"]["series"]
    assert len(series) == 700
    files = [instance["file"] for one in series for instance in one["instances"]]
    listed = [entry["file"] for entry in json.loads(documents["payload/files.json"])]
    assert sorted(files) == sorted(listed[1:])
    assert len(set(files)) == 3000
    assert all(one["instance_count"] == len(one["instances"]) for one in series)


@pytest.mark.parametrize("name", sorted(published_rules.RULES))
def test_what_is_asked_of_documents_can_say_no(name: str) -> None:
    """By the rules of published_rules.py, and, where they are to be had, by the published schemas
    on their own."""
    for asked in published_rules.judges():
        with pytest.raises(AssertionError):
            asked(name, {"nobody": "knows this"})


def test_nothing_of_a_patient_outside_the_payload() -> None:
    held = Contents(published.member_name)
    values = {f.name: f"SECRET{f.name}" for f in dataclasses.fields(Description)}
    secret = Description(**{**values, "series_number": 8989, "instance_number": 6767})  # type: ignore[arg-type]
    put(held, "7.7.7", told=secret)
    documents = written(held)
    assert b"SECRETpatient_id" in documents["payload/metadata.json"]
    for name in ("manifest.json", "audit.json", "payload/files.json"):
        assert b"SECRET" not in documents[name]
        assert b"8989" not in documents[name]


def test_two_studies_are_two_envelopes() -> None:
    held = Contents(published.member_name)
    for study in ("1.2", "1.3"):
        held.add(study, "1.2.1", CT, "1.2.3", EXPLICIT, None, 1, bytes(32), CHEST)
    with pytest.raises(EnvelopeError, match="one study"):
        published.documents(held, Options(ID, SEALED_AT, published=PLAIN))


def test_what_was_not_given_is_our_fault() -> None:
    held = Contents(published.member_name)
    put(held, "1.2.3")
    with pytest.raises(EnvelopeError, match="no sender"):
        published.documents(held, Options(ID, SEALED_AT))
    with pytest.raises(EnvelopeError, match="read again"):
        published.documents(held, Options(ID, SEALED_AT, published=PLAIN, payload_hash="stream"))


# -- signatures ------------------------------------------------------------------------------


def signer(file: str, **more: Any) -> parties.AssertionSettings:
    return parties.AssertionSettings(file, **more)


def test_signatures_of_everyone() -> None:
    held = Contents(published.member_name)
    put(held, "1.2.3")
    mine, theirs = keys.new_signing_key(), keys.new_signing_key()
    attested = parties.Attestation("directory", "sig", "2025-06-07T14:01:00Z", "key")
    published_parties = parties.Published(
        sender=parties.Entity(
            "org:a",
            "A",
            "a@example.org",
            signer("a", key_reference="https://a", expires_secs=60, attestation=attested),
        ),
        requester=parties.Entity("org:b", assertion=signer("b")),
        receivers=(
            parties.Entity("org:c"),
            parties.Entity("org:d", assertion=signer("b", expires_at="2030-01-01T00:00:00Z")),
        ),
        signing=parties.Signing("a", audit=True),
    )
    given_keys = {"a": mine, "b": theirs}
    documents = written(held, published=published_parties, keys=given_keys)
    assert list(documents)[:3] == ["manifest.json", "manifest.jws", "audit.json"]
    manifest = json.loads(documents["manifest.json"])
    signing.verify_manifest(documents["manifest.jws"], documents["manifest.json"], mine.public)
    assert manifest["security"]["jws"] == {"jws_file": "manifest.jws"}
    found = assertions.verify_assertions(manifest, SEALED_AT)
    assert [(one.role, one.ok, one.why) for one in found] == [
        ("sender", True, ""), ("requester", True, ""), ("receiver.1", True, ""),
    ]  # fmt: skip
    assert found[0].expires_at == "2024-01-15T10:01:00Z"
    assert found[0].fingerprint == mine.fingerprint
    late = assertions.verify_assertions(manifest, SEALED_AT + 61)
    assert [one.ok for one in late] == [False, True, True]
    assert manifest["sender"]["assertion"]["directory_attestation"] == attested_names(attested)
    audited = assertions.verify_audit(json.loads(documents["audit.json"]), ID)
    assert [(one.role, one.ok) for one in audited] == [("audit.0", True)]
    # Whoever seals it again, with the same time and keys, writes the same.
    assert written(held, published=published_parties, keys=given_keys) == documents


def attested_names(attested: parties.Attestation) -> dict[str, str]:
    return {
        "provider": attested.provider,
        "attestation_signature": attested.attestation_signature,
        "attestation_timestamp": attested.attestation_timestamp,
        "attestation_public_key": attested.attestation_public_key,
    }


def test_an_audit_entry_of_another_envelope_is_found() -> None:
    held = Contents(published.member_name)
    put(held, "1.2.3")
    published_parties = dataclasses.replace(PLAIN, signing=parties.Signing("k", audit=True))
    given_keys = {"k": keys.new_signing_key()}
    audit = json.loads(written(held, published=published_parties, keys=given_keys)["audit.json"])
    assert [one.ok for one in assertions.verify_audit(audit, ID)] == [True]
    assert [one.ok for one in assertions.verify_audit(audit, ID.replace("5", "6"))] == [False]


@pytest.mark.parametrize("field", ["event", "timestamp", "by"])
def test_a_changed_audit_entry_is_found(field: str) -> None:
    held = Contents(published.member_name)
    put(held, "1.2.3")
    key = keys.new_signing_key()
    published_parties = dataclasses.replace(PLAIN, signing=parties.Signing("k", audit=True))
    audit = json.loads(written(held, published=published_parties, keys={"k": key})["audit.json"])
    audit["audit"][0][field] = {"id": "org:evil"} if field == "by" else "2024-01-15T10:00:01Z"
    (found,) = assertions.verify_audit(audit, ID)
    assert not found.ok
    assert "signature" in found.why
