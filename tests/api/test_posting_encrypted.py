"""POST of encrypted envelopes: checked as far as the configured key allows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastjmix.config import ConfigError, load
from fastjmix.jmix.write import encryption
from fastjmix.jmix.write.tarball import DIALECTS
from tests.support.apis import BASE, LISTENER, UPSTREAM, Answer, Gateway, in_thread, running
from tests.support.encrypted import (
    RECIPIENT,
    STRANGER,
    changed,
    encrypted_envelope,
    encrypted_members,
)
from tests.support.envelopes import ID, STUDY, envelope
from tests.support.sealed import sealed


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Makes a gateway without a key."""
    with running(tmp_path, replace(LISTENER, upstreams=(UPSTREAM,))) as found:
        yield found


@pytest.fixture
def with_key(tmp_path: Path) -> Iterator[Gateway]:
    file = tmp_path / "key.pem"
    file.write_bytes(RECIPIENT.pem())
    listener = replace(LISTENER, upstreams=(UPSTREAM,), decryption_key_file=file)
    with running(tmp_path, listener) as found:
        yield found


def passed_on(gateway: Gateway, data: bytes) -> Answer:
    """Returns the response to an envelope that the upstream takes."""
    with in_thread(lambda: gateway.outcome("delivered", status=201)):
        return gateway.post(data)


@pytest.mark.fault("F92")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_encrypted_envelope_is_passed_on_without_its_key(gateway: Gateway, dialect: str) -> None:
    data = encrypted_envelope(dialect)
    answer = passed_on(gateway, data)
    assert (answer.status, answer.json) == (201, {"id": ID, "status": "stored"})
    ticket = gateway.spool.ticket("outbox", ID)
    assert (ticket.studies, ticket.instances, ticket.size_bytes) == ((), 0, len(data))
    assert gateway.spool.path("outbox", ID).read_bytes() == data  # as it came
    assert gateway.get(f"{BASE}/{ID}").body == data


@pytest.mark.fault("F92")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_with_the_key_it_is_checked_inside_and_passed_on(with_key: Gateway, dialect: str) -> None:
    data = encrypted_envelope(dialect)
    assert passed_on(with_key, data).status == 201
    ticket = with_key.spool.ticket("outbox", ID)
    assert (ticket.studies, ticket.instances) == ((STUDY,), 1)
    assert with_key.spool.path("outbox", ID).read_bytes() == data


CONTENT = encrypted_members()
CIPHER = CONTENT["payload.encrypted"]
LOW_ORDER = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="


def listing(**entry: Any) -> dict[str, bytes]:
    manifest = json.loads(CONTENT["manifest.json"]) | {"files": [entry]}
    return {**CONTENT, "manifest.json": json.dumps(manifest).encode()}


def manifest_with(**keys: Any) -> dict[str, bytes]:
    manifest = json.loads(CONTENT["manifest.json"])
    return {**CONTENT, "manifest.json": json.dumps(manifest | keys).encode()}


def security(**keys: Any) -> dict[str, bytes]:
    return manifest_with(security=json.loads(CONTENT["manifest.json"])["security"] | keys)


REFUSED: dict[str, tuple[dict[str, bytes], str]] = {
    "no ciphertext": ({"manifest.json": CONTENT["manifest.json"]}, "payload.encrypted"),
    "two ciphertexts": ({**CONTENT, "payload.enc": CIPHER}, "a second encrypted payload"),
    "an open payload beside": ({**CONTENT, "payload/metadata.json": b"{}"}, "lies open beside"),
    "no bytes": ({**CONTENT, "payload.encrypted": b""}, "has 0 bytes"),
    "less than a tar": (
        {**CONTENT, "payload.encrypted": CIPHER[: encryption.PLAIN_MIN - 1]},
        f"has {encryption.PLAIN_MIN - 1} bytes",
    ),
    "algorithm": (changed(CONTENT, algorithm="AES-128-CBC"), "encryption.algorithm"),
    "iv's length": (changed(CONTENT, iv="AAAA"), "encryption.iv"),
    "tag's length": (changed(CONTENT, auth_tag="AAAA"), "encryption.auth_tag"),
    "tag is no base64": (changed(CONTENT, auth_tag="%" * 24), "encryption.auth_tag"),
    "tag's type": (changed(CONTENT, auth_tag=None), "encryption.auth_tag"),
    "key's length": (changed(CONTENT, ephemeral_public_key="AAAA"), "ephemeral_public_key"),
    "key keeps no secret": (changed(CONTENT, ephemeral_public_key=LOW_ORDER), "no secret"),
    "another field": (changed(CONTENT, salt="x"), "salt"),
    "no object": (security(encryption="yes"), "security.encryption"),
    "payload_hash's form": (security(payload_hash="md5:00"), "security.payload_hash"),
    "listed size": (listing(path="payload.encrypted", size_bytes=len(CIPHER) + 1), "bytes"),
    "listed hash": (listing(path="payload.encrypted", hash=f"sha256:{'0' * 64}"), "its hash"),
    "id": (manifest_with(id="7"), "UUID"),
    "version": (manifest_with(version=2), "version"),
}


@pytest.mark.fault("F92")
@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_no_key_is_checked_without_it(gateway: Gateway, name: str) -> None:
    content, words = REFUSED[name]
    answer = gateway.post(sealed(content))
    assert answer.status == 400, answer.body
    assert words in answer.json["error"]
    assert list(gateway.spool.building.iterdir()) == []


@pytest.mark.fault("F92")
def test_a_ciphertext_damaged_on_its_way_is_refused_without_the_key(gateway: Gateway) -> None:
    data = bytearray(encrypted_envelope())
    data[data.index(b"payload.encrypted") + 600] ^= 1
    answer = gateway.post(bytes(data))
    assert answer.status == 400
    assert "payload.encrypted" in answer.json["error"]
    assert "CRC-32" in answer.json["error"]


@pytest.mark.fault("F92")
def test_a_listing_may_name_what_lies_in_the_ciphertext(gateway: Gateway) -> None:
    content = listing(path="payload/dicom/1.dcm", size_bytes=1200, hash=f"sha256:{'0' * 64}")
    assert passed_on(gateway, sealed(content)).status == 201


@pytest.mark.fault("F92")
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(CONTENT, auth_tag="A" * 22 + "=="), "cannot be decrypted"),
        ({**CONTENT, "payload.encrypted": CIPHER + bytes(512)}, "cannot be decrypted"),
    ],
    ids=["tag", "ciphertext"],
)
def test_with_the_key_it_is_strict(
    with_key: Gateway, content: dict[str, bytes], words: str
) -> None:
    answer = with_key.post(sealed(content))
    assert answer.status == 400
    assert words in answer.json["error"]


@pytest.mark.fault("F92")
def test_an_envelope_for_another_receiver_is_refused_with_a_key(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(STRANGER.pem())
    listener = replace(LISTENER, upstreams=(UPSTREAM,), decryption_key_file=file)
    with running(tmp_path, listener) as gateway:
        answer = gateway.post(encrypted_envelope())
        assert answer.status == 400
        assert "another key" in answer.json["error"]
        assert (
            passed_on(gateway, envelope(ID)).status == 201
        )  # unencrypted ones are checked as before


TAKEN = [
    "application/zip",
    "application/x-zip-compressed",
    "application/octet-stream",
    "Application/ZIP; charset=binary",
    "APPLICATION/X-ZIP-COMPRESSED;name=e.zip",
    "application/octet-stream ; a=b",
]
NOT_TAKEN = ["", "zip", "text/plain", "application/json", "multipart/form-data; boundary=x",
             "application/zipped", "application/zip, text/plain", "application/*"]  # fmt: skip


@pytest.mark.fault("F92")
@pytest.mark.parametrize("given", TAKEN)
def test_a_zip_by_each_of_its_names(gateway: Gateway, given: str) -> None:
    with in_thread(lambda: gateway.outcome("delivered", status=201)):
        assert gateway.post(envelope(ID), **{"Content-Type": given}).status == 201


@pytest.mark.fault("F92")
@pytest.mark.parametrize("given", NOT_TAKEN)
def test_what_is_called_something_else_is_refused(gateway: Gateway, given: str) -> None:
    answer = gateway.post(envelope(ID), **{"Content-Type": given})
    assert answer.status == 415
    assert "Content-Type" in answer.json["error"]


# -- the option ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [(b"", "X25519"), (b"no key", "X25519"), (None, "cannot be read")],
    ids=["empty", "text", "missing"],
)
def test_an_invalid_decryption_key_is_a_fault_of_the_configuration(
    tmp_path: Path, key: bytes | None, words: str
) -> None:
    with pytest.raises(ConfigError, match="decryption_key_file") as caught:
        load(configured(tmp_path, key))
    assert words in str(caught.value)


def test_a_decryption_key_is_found_beside_its_file(tmp_path: Path) -> None:
    [listener] = load(configured(tmp_path, RECIPIENT.pem())).http
    assert listener.decryption_key_file == tmp_path / "pipelines" / "receiver.pem"


def configured(home: Path, key: bytes | None) -> Path:
    """Returns the shipped configuration, whose query API names a key beside its file."""
    shipped = Path(__file__).parents[2]
    pipelines = home / "pipelines"
    pipelines.mkdir()
    text = (shipped / "pipelines" / "dicom-to-jmix.toml").read_text()
    old = 'path_prefix = "/jmix"'
    assert old in text
    new = f'{old}\ndecryption_key_file = "receiver.pem"'
    (pipelines / "p.toml").write_text(text.replace(old, new, 1))
    main = (shipped / "config.toml").read_text()
    (home / "config.toml").write_text(main.replace('"pipelines"', f'"{pipelines}"'))
    if key is not None:
        (pipelines / "receiver.pem").write_bytes(key)
    return home / "config.toml"
