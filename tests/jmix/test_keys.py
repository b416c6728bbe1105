"""jmix/keys.py: every form of a key is read, and none shows itself."""

from __future__ import annotations

import hashlib

import pytest

from fastjmix.jmix import keys
from tests.jmix.test_signing import ED, KEY, SEED, X, b64, private_pem, public_pem


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


def test_a_key_shows_nothing_of_itself() -> None:
    for key in (KEY, keys.recipient_key(SEED, "k")):
        reported = f"{key!r} {key}"
        assert SEED.hex() not in reported
        assert b64(SEED).decode() not in reported
