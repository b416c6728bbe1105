"""jmix/keys.py, signing.py, assertions.py: forms of keys, signatures, and ways to forge them."""

from __future__ import annotations

import base64
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
from fastjmix.jmix.write.signing import sign_manifest, verify_manifest

SEED = bytes(range(100, 132))
KEY = keys.signing_key(SEED, "the test's key")
OTHER = keys.signing_key(bytes(range(32)), "another")


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
    reported = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    for secret in (SEED, form[5:25] or b"nothing"):
        assert secret.hex() not in reported
        assert b64(secret).decode()[:20] not in reported
    assert caught.value.__suppress_context__


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
