"""Reads and makes keys: Ed25519 for signatures, X25519 for encryption, in the JMIX libraries' forms.

Wanted: a key file made by OpenSSL, by jmix-rs, jmix-js or jmix-php works as it is.
Guaranteed: no key material in an error, a repr or a log; a key of the wrong kind is refused, never
reinterpreted where its form names its kind (PEM).
Still wrong: raw and base64 forms name neither their curve nor whether they are private; a private
key's memory is not wiped; the mode of a key file is not checked.

    kind              accepted
    signing, private  PEM (PKCS#8), 32 bytes, base64 of 32 (seed) or 64 bytes (libsodium: seed + public)
    signing, public   PEM (SubjectPublicKeyInfo), 32 bytes, base64 of 32
    recipient's       the same, without the form of 64 bytes

Sources: RFC 8032 (Ed25519), RFC 7748 (X25519), RFC 8410 (their PEM forms).
"""  # noqa: E501  (a table)

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from fastjmix.errors import ConfigError, EnvelopeError

KEY_BYTES: Final = 32
SODIUM_BYTES: Final = 64

_pem: Final = b"-----BEGIN "
_prime: Final = 2**255 - 19

ED25519: Final = "Ed25519"
X25519: Final = "X25519"


class SigningKey:
    """An Ed25519 private key. `public`: 32 bytes; `fingerprint`: as in an assertion."""

    __slots__ = ("_key", "fingerprint", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()
        self.fingerprint = fingerprint(self.public)

    def sign(self, data: bytes) -> bytes:
        """Returns the signature, 64 bytes."""
        return self._key.sign(data)

    def pem(self) -> bytes:
        """Returns the private key as PKCS#8."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return f"<SigningKey {self.fingerprint}>"


class RecipientKey:
    """An X25519 private key, the recipient's of an encrypted envelope. `public`: 32 bytes."""

    __slots__ = ("_key", "public")

    def __init__(self, key: X25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key().public_bytes_raw()

    def agree(self, other: bytes) -> bytes:
        """Returns the shared secret with a public key (RFC 7748 §6.1), 32 bytes.

        Raises EnvelopeError for a public key with which the secret is known to all, and for one
        that is not in its only canonical form: §5 ignores its highest bit and reduces the rest, so
        that a changed key could give the same secret.
        """
        if len(other) != KEY_BYTES or int.from_bytes(other, "little") >= _prime:
            raise EnvelopeError("the public key is not an X25519 key in its canonical form")
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:  # §6.1: all zeros
            raise EnvelopeError("the public key is one of those that keep no secret") from None

    def pem(self) -> bytes:
        """Returns the private key as PKCS#8."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def __repr__(self) -> str:
        return "<RecipientKey>"


def new_signing_key() -> SigningKey:
    """Makes a key from the system's random numbers."""
    return SigningKey(Ed25519PrivateKey.generate())


def new_recipient_key() -> RecipientKey:
    """Makes a key from the system's random numbers."""
    return RecipientKey(X25519PrivateKey.generate())


def signing_key(data: bytes, where: str) -> SigningKey:
    """Returns the private key in a file's bytes; `where` names it in errors. Raises ConfigError."""
    if data.lstrip().startswith(_pem):
        found = _private_pem(data, where)
        return SigningKey(found) if isinstance(found, Ed25519PrivateKey) else _kind(where, ED25519)
    raw = _raw(data, where, "an Ed25519 private key", (KEY_BYTES, SODIUM_BYTES))
    key = SigningKey(Ed25519PrivateKey.from_private_bytes(raw[:KEY_BYTES]))
    if len(raw) == SODIUM_BYTES and raw[KEY_BYTES:] != key.public:
        _refuse(where, "its public half does not belong to its private half")
    return key


def signing_public(data: bytes, where: str) -> bytes:
    """Returns the public key of a file's bytes or a base64 text: 32 bytes. Raises ConfigError."""
    if data.lstrip().startswith(_pem):
        found = _public_pem(data, where)
        if not isinstance(found, Ed25519PublicKey):
            _kind(where, ED25519)
        return found.public_bytes_raw()
    return _raw(data, where, "an Ed25519 public key", (KEY_BYTES,))


def recipient_key(data: bytes, where: str) -> RecipientKey:
    """Returns the private key in a file's bytes. Raises ConfigError."""
    if data.lstrip().startswith(_pem):
        found = _private_pem(data, where)
        return RecipientKey(found) if isinstance(found, X25519PrivateKey) else _kind(where, X25519)
    raw = _raw(data, where, "an X25519 private key", (KEY_BYTES,))
    return RecipientKey(X25519PrivateKey.from_private_bytes(raw))


def recipient_public(data: bytes, where: str) -> bytes:
    """Returns the public key of a file's bytes or a base64 text: 32 bytes. Raises ConfigError."""
    if data.lstrip().startswith(_pem):
        found = _public_pem(data, where)
        if not isinstance(found, X25519PublicKey):
            _kind(where, X25519)
        raw = found.public_bytes_raw()
    else:
        raw = _raw(data, where, "an X25519 public key", (KEY_BYTES,))
    try:
        new_recipient_key().agree(raw)
    except EnvelopeError:
        _refuse(where, "is not a key that anything could be encrypted for")
    return raw


def canonical_base64(text: object, size: int) -> bytes | None:
    """Returns the `size` bytes of a base64 text; None unless it is their only canonical form.

    base64 has bits that decode to nothing; a text in which those are set is refused.
    """
    try:
        found = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return None
    good = len(found) == size and base64.b64encode(found).decode() == text
    return found if good else None


def fingerprint(public: bytes) -> str:
    """Returns "SHA256:" and the SHA-256 of the raw public key in lower-case hexadecimal, as jmix-rs
    does."""
    return f"SHA256:{hashlib.sha256(public).hexdigest()}"


def public_pem(public: bytes, kind: str) -> bytes:
    """Returns a raw public key as SubjectPublicKeyInfo; `kind`: "signing" or "encryption"."""
    make = Ed25519PublicKey if kind == "signing" else X25519PublicKey
    key = make.from_public_bytes(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _private_pem(data: bytes, where: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        _refuse(where, "is not a private key in PEM form, or is protected by a password")


def _public_pem(data: bytes, where: str) -> PublicKeyTypes:
    if b"PRIVATE KEY" in data:
        _refuse(where, "is a private key where a public one is wanted: give the public half")
    try:
        return load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        _refuse(where, "is not a public key in PEM form")


def _kind(where: str, wanted: str) -> NoReturn:
    _refuse(where, f"must be an {wanted} key, not another kind of key")


def _raw(data: bytes, where: str, wanted: str, sizes: tuple[int, ...]) -> bytes:
    """Returns 32 bytes as they are, and anything else decoded from base64."""
    if len(data) == KEY_BYTES:
        return data
    try:
        found = base64.b64decode(data.strip(), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) not in sizes:
        what = " or ".join(str(size) for size in sizes)
        _refuse(where, f"is not {wanted}: PEM, {KEY_BYTES} raw bytes, or base64 of {what} bytes")
    return found


def _refuse(where: str, what: str) -> NoReturn:
    # "from None": a library's own error may show a part of what it read
    raise ConfigError(f"{where}: {what}", "A key is made by `fastjmix envelope keygen`.") from None
