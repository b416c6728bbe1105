"""jmix/keys.py, signing.py, assertions.py: forms of keys, signatures, and ways to forge them."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from fastjmix.config import key_files
from fastjmix.errors import ConfigError, EnvelopeError
from fastjmix.jmix import keys
from fastjmix.jmix.write.assertions import AssertionResult, assertion, verify_assertions
from fastjmix.jmix.write.signing import sign_manifest, verify_manifest

SEED = bytes(range(100, 132))
KEY = keys.signing_key(SEED, "the test's key")
OTHER = keys.signing_key(bytes(range(32)), "another")
NOW = 1_700_000_000.0


def b64(data: bytes) -> bytes:
    return base64.b64encode(data)


def url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


# -- keys ----------------------------------------------------------------------------------------


def private_pem(key: Any, *, password: bytes | None = None) -> bytes:
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
    return pem


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


ED = Ed25519PrivateKey.from_private_bytes(SEED)
X = X25519PrivateKey.from_private_bytes(SEED)
P256 = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    "form",
    [SEED, b64(SEED), b64(SEED) + b"\n", b64(SEED + KEY.public), private_pem(ED), KEY.pem()],
)
def test_every_form_of_a_signing_key(form: bytes) -> None:
    found = keys.signing_key(form, "k")
    assert found.public == KEY.public == ED.public_key().public_bytes_raw()
    assert found.fingerprint == f"SHA256:{hashlib.sha256(KEY.public).hexdigest()}"
    ED.public_key().verify(found.sign(b"text"), b"text")


@pytest.mark.parametrize("form", [SEED, b64(SEED), private_pem(X)])
def test_every_form_of_a_recipient_s_key(form: bytes) -> None:
    assert keys.recipient_key(form, "k").public == X.public_key().public_bytes_raw()


def test_every_form_of_public_keys() -> None:
    for raw, read, pem in (
        (KEY.public, keys.signing_public, public_pem(ED)),
        (X.public_key().public_bytes_raw(), keys.recipient_public, public_pem(X)),
    ):
        for form in (raw, b64(raw), b64(raw) + b"\n", pem):
            assert read(form, "k") == raw
    assert keys.public_pem(KEY.public, "signing") == public_pem(ED)
    assert keys.public_pem(X.public_key().public_bytes_raw(), "encryption") == public_pem(X)


BAD = [
    (keys.signing_key, b""),
    (keys.signing_key, b"x" * 31),
    (keys.signing_key, b64(b"x" * 33)),
    (keys.signing_key, b64(SEED + OTHER.public)),
    (keys.signing_key, b64(SEED)[:-2]),
    (keys.signing_key, private_pem(X)),
    (keys.signing_key, private_pem(P256)),
    (keys.signing_key, private_pem(ED, password=b"secret")),
    (keys.signing_key, public_pem(ED)),
    (keys.signing_key, b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
    (keys.signing_public, private_pem(ED)),
    (keys.signing_public, public_pem(X)),
    (keys.signing_public, b64(SEED + SEED)),
    (keys.recipient_key, private_pem(ED)),
    (keys.recipient_key, b64(SEED + SEED)),
    (keys.recipient_public, public_pem(ED)),
    (keys.recipient_public, private_pem(X)),
    (keys.recipient_public, b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
]


@pytest.mark.parametrize(("read", "form"), BAD)
def test_what_is_no_such_key_is_refused_without_showing_it(read: Any, form: bytes) -> None:
    with pytest.raises(ConfigError, match=r"signing\.key_file: ") as caught:
        read(form, "signing.key_file")
    told = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    for secret in (SEED, form[5:25] or b"nothing"):
        assert secret.hex() not in told
        assert b64(secret).decode()[:20] not in told
    assert caught.value.__suppress_context__


def test_a_key_shows_nothing_of_itself() -> None:
    for key in (KEY, keys.recipient_key(SEED, "k")):
        told = f"{key!r} {key}"
        assert SEED.hex() not in told
        assert b64(SEED).decode() not in told


def test_key_files_are_read_with_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "k"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        key_files.read_file(path)
    path.write_bytes(SEED)
    assert key_files.read_file(path) == SEED
    path.write_bytes(bytes(5000))
    with pytest.raises(ConfigError, match="more than 4096 bytes"):
        key_files.read_file(path)


# -- manifest.jws --------------------------------------------------------------------------------

MANIFEST = b'{"id":"550e8400-e29b-41d4-a716-446655440000","version":"1.0"}'
JWS = sign_manifest(MANIFEST, KEY)


def test_the_jws_is_what_jmix_rs_writes() -> None:
    header, payload, signature = JWS.split(b".")
    assert header == url(b'{"alg":"EdDSA","typ":"JWS","crv":"Ed25519"}')
    assert payload == url(MANIFEST)
    ED.public_key().verify(base64.urlsafe_b64decode(signature + b"=="), header + b"." + payload)
    verify_manifest(JWS, MANIFEST, KEY.public)


@given(st.integers(0, len(JWS) - 1), st.integers(0, 255))
def test_a_changed_byte_of_the_jws_is_found(at: int, to: int) -> None:
    changed = JWS[:at] + bytes([to]) + JWS[at + 1 :]
    if changed == JWS:
        return
    with pytest.raises(EnvelopeError, match=r"manifest\.jws"):
        verify_manifest(changed, MANIFEST, KEY.public)


@pytest.mark.parametrize("part", range(3))
def test_the_last_character_of_each_part_has_one_value(part: int) -> None:
    """base64 leaves bits of it without meaning."""
    parts = JWS.split(b".")
    for other in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \n":
        forged = [*parts]
        forged[part] = parts[part][:-1] + bytes([other])
        if forged != parts:
            with pytest.raises(EnvelopeError):
                verify_manifest(b".".join(forged), MANIFEST, KEY.public)


@given(st.integers(0, len(MANIFEST) - 1), st.integers(1, 255))
def test_a_changed_byte_of_the_manifest_is_found(at: int, by: int) -> None:
    changed = bytearray(MANIFEST)
    changed[at] ^= by
    with pytest.raises(EnvelopeError, match=r"other bytes than manifest\.json"):
        verify_manifest(JWS, bytes(changed), KEY.public)


def signed(header: bytes, payload: bytes = MANIFEST) -> bytes:
    text = url(header) + b"." + url(payload)
    return text + b"." + url(KEY.sign(text))


@pytest.mark.parametrize(
    ("jws", "why"),
    [
        (signed(b'{"alg":"none"}'), "alg"),
        (url(b'{"alg":"none"}') + b"." + url(MANIFEST) + b".", "alg"),
        (signed(b'{"alg":"HS256"}'), "alg"),
        (signed(b'{"alg":"ES256","crv":"Ed25519"}'), "alg"),
        (signed(b'{"alg":["EdDSA"]}'), "alg"),
        (signed(b"{}"), "alg"),
        (signed(b'{"alg":"EdDSA","crv":"Ed448"}'), "crv"),
        (signed(b'{"alg":"EdDSA","crit":["exp"],"exp":1}'), "crit"),
        (signed(b'{"alg":"EdDSA","b64":false,"crit":["b64"]}'), "crit"),
        (signed(b'{"alg":"EdDSA","b64":false}'), "b64"),
        (signed(b'["EdDSA"]'), "object"),
        (signed(b"EdDSA"), "not JSON"),
        (signed(b'{"alg":"EdDSA","x":"' + b"y" * 1000 + b'"}'), "more than 1024"),
        (signed(b'{"alg":"EdDSA"}', MANIFEST + b" "), "other bytes"),
        (JWS + b".", "three parts"),
        (JWS[: JWS.rindex(b".")], "three parts"),
        (JWS.rpartition(b".")[0] + b".", "signature"),
        (JWS.rpartition(b".")[0] + b"." + url(bytes(63)), "64 bytes"),
        (JWS + b"=", "base64url"),
        (JWS + b"\n", "base64url"),
        (b"", "three parts"),
        (b"{}", "three parts"),
    ],
)
def test_a_jws_that_asks_for_something_else_is_refused(jws: bytes, why: str) -> None:
    with pytest.raises(EnvelopeError, match=why):
        verify_manifest(jws, MANIFEST, KEY.public)


def test_another_s_key_is_not_enough() -> None:
    for public in (OTHER.public, bytes(32), b"", b"\xff" * 32):
        with pytest.raises(EnvelopeError, match="not right"):
            verify_manifest(JWS, MANIFEST, public)


def test_the_header_of_jmix_php_is_accepted() -> None:
    verify_manifest(signed(b'{"alg":"EdDSA","typ":"JWT"}'), MANIFEST, KEY.public)


# -- assertions ----------------------------------------------------------------------------------


@dataclass
class Wanted:
    key_reference: str | None = "aurabox://org/a#key-1"
    expires_secs: float | None = 3600
    expires_at: str | None = None
    fields: tuple[str, ...] = ()
    directory_attestation: dict[str, str] | None = field(
        default_factory=lambda: {
            "provider": "directory",
            "attestation_signature": "c2ln",
            "attestation_timestamp": "2025-01-01T00:00:00Z",
            "attestation_public_key": "a2V5",
        }
    )


def manifest(**changes: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "id": "550e8400-e29b-41d4-a716-446655440000",
        "timestamp": "2026-01-01T00:00:00Z",
        "sender": {"id": "org:a", "name": "Praxis Dr. Ä", "contact": "a@example.org"},
        "requester": {"id": "org:q", "contact": "q@example.org"},
        "receiver": [{"id": "org:b", "contact": "b"}, {"id": "org:c", "name": "C"}],
        "security": {"payload_hash": "sha256:00"},
        **changes,
    }


def asserted(role: str = "sender", **settings: Any) -> dict[str, Any]:
    found = manifest()
    at: Any = found
    for part in role.split("."):
        at = at[int(part) if part.isdigit() else part]
    at["assertion"] = assertion(found, role, Wanted(**settings), KEY, NOW)
    return found


def judged(found: dict[str, Any], now: float = NOW) -> AssertionResult:
    (result,) = verify_assertions(json.loads(json.dumps(found)), now)
    return result


@pytest.mark.parametrize("role", ["sender", "requester", "receiver.0", "receiver.1"])
def test_an_assertion_is_made_and_verified(role: str) -> None:
    found = judged(asserted(role))
    assert found == (role, True, "", KEY.fingerprint, "2023-11-14T23:13:20Z", ())
    assert judged(asserted(role), NOW + 3601).why == "it expired at 2023-11-14T23:13:20Z"


def test_the_signed_text_is_the_flat_object_of_jmix_rs() -> None:
    """The twin: dot paths sorted, values from the manifest, compact, nothing escaped."""
    made = asserted(key_reference=None, expires_secs=None, directory_attestation=None)
    said = made["sender"]["assertion"]
    assert said.keys() == {"signing_key", "signed_fields", "signature"}
    assert set(said["signed_fields"]) >= {"sender.id", "sender.name", "manifest.id", "timestamp"}
    text = (
        '{"manifest.id":"550e8400-e29b-41d4-a716-446655440000","security.payload_hash":"sha256:00",'
        f'"sender.assertion.signing_key.fingerprint":"{KEY.fingerprint}","sender.id":"org:a",'
        '"sender.name":"Praxis Dr. Ä","timestamp":"2026-01-01T00:00:00Z"}'
    )
    ED.public_key().verify(base64.b64decode(said["signature"]), text.encode())


def test_an_assertion_of_jmix_rs_is_accepted_and_what_it_leaves_open_is_told() -> None:
    fields = ["sender.id", "sender.name", "manifest.id", "timestamp"]
    found = manifest()
    values = [found["sender"]["id"], found["sender"]["name"], found["id"], found["timestamp"]]
    text = json.dumps(
        dict(sorted(zip(fields, values, strict=True))), separators=(",", ":"), ensure_ascii=False
    )
    found["sender"]["assertion"] = {
        "signing_key": {
            "alg": "Ed25519",
            "public_key": b64(KEY.public).decode(),
            "fingerprint": KEY.fingerprint,
        },
        "key_reference": None,
        "signed_fields": fields,
        "signature": b64(KEY.sign(text.encode())).decode(),
        "expires_at": "2999-01-01T00:00:00+01:00",
    }
    result = judged(found)
    assert result.ok
    assert "sender.assertion.expires_at" in result.unsigned
    assert "security.payload_hash" in result.unsigned


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, item in enumerate(value) for leaf in leaves(item, (*path, key))]
    return [path]


MADE = asserted()
LEAVES = [
    *leaves(MADE["sender"]["assertion"], ("sender", "assertion")),
    ("sender", "id"),
    ("sender", "name"),
    ("id",),
    ("timestamp",),
    ("security", "payload_hash"),
]


@given(st.data())
def test_a_changed_character_of_an_assertion_or_of_what_it_signs_is_found(data: Any) -> None:
    found = json.loads(json.dumps(MADE))
    *path, last = data.draw(st.sampled_from(LEAVES))
    at = found
    for part in path:
        at = at[part]
    text = at[last]
    where = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    at[last] = text[:where] + other + text[where + 1 :]
    if at[last] != text:
        assert not judged(found).ok


@pytest.mark.parametrize("path", LEAVES)
def test_a_missing_part_or_a_null_is_found(path: tuple[Any, ...]) -> None:
    values: tuple[Any, ...] = ("gone", None, 1, [], {})
    for value in values:
        found = json.loads(json.dumps(MADE))
        at = found
        for part in path[:-1]:
            at = at[part]
        if value == "gone":
            del at[path[-1]]
        else:
            at[path[-1]] = value
        assert not judged(found).ok


def test_one_entity_s_assertion_is_not_another_s() -> None:
    found = manifest(receiver=[])
    said = asserted("sender")["sender"]["assertion"]
    found["requester"]["assertion"] = said
    assert not judged(found).ok


@pytest.mark.parametrize(
    "change",
    [
        {"signed_fields": []},
        {"signed_fields": ["id"] * 2},
        {"signed_fields": ["id"] * 65},
        {"signed_fields": "id"},
        {"signed_fields": [["id"]]},
        {"signed_fields": ["x" * 257]},
        {"signed_fields": ["receiver.-1.id"]},
        {"signed_fields": ["receiver.99999999999.id"]},
        {"directory_attestation": "x"},
        {"signing_key": []},
        {"expires_at": "2999-01-01"},
    ],
)
def test_bad_assertions_are_judged_not_raised(change: dict[str, Any]) -> None:
    found = json.loads(json.dumps(MADE))
    found["sender"]["assertion"] |= change
    assert not judged(found).ok


def test_strange_manifests_are_judged_not_raised() -> None:
    manifests: tuple[dict[str, Any], ...] = (
        {},
        {"sender": 1},
        {"receiver": {}},
        {"receiver": [1, None]},
        {"sender": {}},
    )
    for strange in manifests:
        assert verify_assertions(strange, NOW) == []
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    found = json.loads(json.dumps(MADE))
    found["sender"]["assertion"]["signed_fields"] = ["deep"]
    assert not verify_assertions({**found, "deep": deep}, NOW)[0].ok
    assert not verify_assertions({"sender": {"assertion": [1]}}, NOW)[0].ok


def test_configured_fields_are_signed_and_a_missing_one_is_the_operator_s() -> None:
    made = asserted(fields=("sender.contact", "entity.id", "version"))
    assert made["sender"]["assertion"]["signed_fields"][:3] == [
        "sender.contact",
        "entity.id",
        "version",
    ]
    assert judged(made).ok
    made["sender"]["contact"] = "other"
    assert not judged(made).ok
    with pytest.raises(ConfigError, match=r"the manifest has no 'sender\.fax'"):
        asserted(fields=("sender.fax",))


def test_an_absolute_expiry_wins() -> None:
    made = asserted(expires_at="2030-06-01T00:00:00+02:00")
    assert judged(made).expires_at == "2030-06-01T00:00:00+02:00"
    assert not judged(made, 1_999_999_999).ok
