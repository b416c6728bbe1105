"""Encrypts a payload for one recipient: AES-256-GCM under a key that only it can agree on.

Wanted: an encrypted payload that a JMIX library decrypts, of any size in constant memory.
Guaranteed: each encryption has its own ephemeral key, hence its own AES key, and its own iv: no
(key, iv) is used twice. No plaintext is given to a caller before the tag over all of it was found
right. A change of any byte of ciphertext, tag, iv or ephemeral key is found: base64 and keys
are accepted in their canonical forms only.
Still wrong: the ciphertext is read twice to decrypt it (once for the tag), and once more for each
dialect tried; a change between the two readings is found only at the end of the second. The sizes
of members can be guessed from the ciphertext's size. Nothing says who encrypted: a signature does.

    dialect  file               HKDF info                  tar, see tarball.py
    php      payload.encrypted  JMIX-payload-encryption    ustar, files only
    js       payload.encrypted  JMIX-Payload-Encryption    ustar, payload/…
    rs       payload.enc        JMIX-AES256-GCM            GNU, ./ first

"php" is the one nearest to the published text. No library decrypts what another has encrypted.

Sources: RFC 7748 (X25519), RFC 5869 (HKDF), NIST SP 800-38D (GCM; §5.2.1.1 bounds the plaintext).
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastjmix.errors import EnvelopeError
from fastjmix.jmix.faults import escaped
from fastjmix.jmix.keys import KEY_BYTES, RecipientKey, canonical_base64, new_recipient_key
from fastjmix.jmix.strict_json import JsonObject
from fastjmix.jmix.write.tarball import BLOCK, DIALECTS, Plain, tar, tar_size, untar

__all__ = ["DIALECTS", "PLAIN_MAX", "Plain", "Sealed", "Verified", "decrypt", "encrypt",
           "encrypted_name", "verify"]  # fmt: skip

ALGORITHM: Final = "AES-256-GCM"
IV_BYTES: Final = 12
TAG_BYTES: Final = 16
PLAIN_MAX: Final = 2**36 - 32
"""Bytes under one (key, iv), 64 GiB: beyond it GCM's counter comes round (SP 800-38D §5.2.1.1)."""
PLAIN_MIN: Final = 3 * BLOCK
"""Bytes of the least payload, a tar of metadata.json: its header, its data, and one block of the
end, as a reader needs it. The ciphertext has as many."""
PIECE_BYTES: Final = 1 << 20
"""Bytes encrypted at once: the GIL is released meanwhile."""

_info: Final = {
    "php": b"JMIX-payload-encryption",
    "js": b"JMIX-Payload-Encryption",
    "rs": b"JMIX-AES256-GCM",
}
_fields: Final = {"ephemeral_public_key": KEY_BYTES, "iv": IV_BYTES, "auth_tag": TAG_BYTES}


class Sealed(NamedTuple):
    """The result of an encryption: `fields` of the manifest's security.encryption, the ciphertext's
    size in bytes and SHA-256, and the SHA-256 of the tar in it (dialect "rs"; else None). Both
    digests are in lower-case hexadecimal; security.payload_hash has one of them.
    """

    fields: dict[str, str]
    size: int
    sha256: str
    tar_sha256: str | None


class Verified(NamedTuple):
    """A ciphertext whose tag is right: its dialect, and the rest as in Sealed."""

    dialect: str
    size: int
    sha256: str
    tar_sha256: str | None


def encrypted_name(dialect: str) -> str:
    """Returns the name of the member with the ciphertext, beside manifest.json."""
    return "payload.enc" if dialect == "rs" else "payload.encrypted"


def derive(dialect: str, shared: bytes) -> bytes:
    """Returns the AES key of a shared secret: HKDF-SHA256 without salt, 32 bytes."""
    return HKDF(SHA256(), KEY_BYTES, None, _info[dialect]).derive(shared)


def check_size(dialect: str, members: Iterable[Plain]) -> int:
    """Returns the bytes of the plaintext. Raises EnvelopeError for more than one key may
    encrypt."""
    size = tar_size(dialect, list(members))
    if size > PLAIN_MAX:
        raise EnvelopeError(
            f"the payload: {size} bytes are more than AES-GCM can encrypt at once, {PLAIN_MAX}",
            "Make smaller envelopes: max_envelope_bytes.",
        )
    return size


def encrypt(
    dialect: str,
    recipient: bytes,
    members: Iterable[Plain],
    write: Callable[[bytes], object],
    *,
    ephemeral: RecipientKey | None = None,
    iv: bytes | None = None,
    modified: int = 0,
) -> Sealed:
    """Calls `write` with the ciphertext, piece by piece.

    `recipient` is an X25519 public key, 32 bytes; `ephemeral` and `iv` are generated, unless a test
    gives known ones. `modified`: Unix seconds, for the tar. Raises EnvelopeError: the payload is
    too large (before anything is written), or a member has not the size it announced.
    """
    payload = list(members)
    check_size(dialect, payload)
    ephemeral = ephemeral or new_recipient_key()
    iv = iv or secrets.token_bytes(IV_BYTES)
    cipher = Cipher(AES(derive(dialect, ephemeral.agree(recipient))), GCM(iv)).encryptor()
    seen = _Seen(dialect)
    for piece in _pieces(tar(dialect, payload, modified)):
        secret = cipher.update(piece)
        seen.see(secret, piece)
        write(secret)
    cipher.finalize()
    values = (ephemeral.public, iv, cipher.tag)
    fields = {"algorithm": ALGORITHM}
    fields |= {name: base64.b64encode(v).decode() for name, v in zip(_fields, values, strict=True)}
    return Sealed(fields, *seen.result())


class _Seen:
    """Size and digests of a ciphertext, computed while it is read or written."""

    def __init__(self, dialect: str) -> None:
        self._size = 0
        self._outer = hashlib.sha256()
        self._inner = hashlib.sha256() if dialect == "rs" else None

    def see(self, secret: bytes, plain: bytes) -> None:
        self._size += len(secret)
        self._outer.update(secret)
        if self._inner is not None:
            self._inner.update(plain)

    def result(self) -> tuple[int, str, str | None]:
        inner = self._inner.hexdigest() if self._inner is not None else None
        return self._size, self._outer.hexdigest(), inner


def _pieces(source: Iterator[bytes]) -> Iterator[bytes]:
    """Headers and small members together, large ones in parts."""
    held = bytearray()
    for piece in source:
        for at in range(0, len(piece), PIECE_BYTES):
            held += memoryview(piece)[at : at + PIECE_BYTES]
            if len(held) >= PIECE_BYTES:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


class _Parsed(NamedTuple):
    """security.encryption, decoded."""

    ephemeral: bytes
    iv: bytes
    tag: bytes


def check_fields(fields: object) -> None:
    """Raises EnvelopeError, naming the key, when this is no valid security.encryption."""
    parsed = _parse(fields)
    try:
        new_recipient_key().agree(parsed.ephemeral)
    except EnvelopeError as problem:
        what = f'manifest.json: "security.encryption.ephemeral_public_key": {problem.message}'
        raise EnvelopeError(what) from None


def check_cipher_size(name: str, size: int) -> None:
    """Raises EnvelopeError for a size that no ciphertext can have; `name` is its member."""
    if not PLAIN_MIN <= size <= PLAIN_MAX:
        what = f"has {size} bytes; an encrypted payload has {PLAIN_MIN} to {PLAIN_MAX}"
        raise EnvelopeError(f"{escaped(name)}: {what}")


def _parse(fields: object) -> _Parsed:
    if not isinstance(fields, Mapping):
        raise EnvelopeError('manifest.json: "security.encryption" must be an object')
    if fields.get("algorithm") != ALGORITHM:
        raise EnvelopeError(f'manifest.json: "security.encryption.algorithm" must be {ALGORITHM}')
    if unknown := fields.keys() - _fields.keys() - {"algorithm"}:
        what = str(min(map(str, unknown)))[:40]
        raise EnvelopeError(f'manifest.json: "security.encryption" has an unknown key {what!r}')
    return _Parsed(*(_decoded(fields, name, size) for name, size in _fields.items()))


def _decoded(fields: JsonObject, name: str, size: int) -> bytes:
    found = canonical_base64(fields.get(name), size)
    if found is None:
        what = f"must be {size} bytes in base64"
        raise EnvelopeError(f'manifest.json: "security.encryption.{name}" {what}')
    return found


def verify(
    dialect: str | None,
    key: RecipientKey,
    fields: object,
    read_pieces: Callable[[], Iterable[bytes]],
) -> Verified:
    """Reads the ciphertext once, for its tag. With `dialect` None, once for each until it is right.

    `fields`: security.encryption. Raises EnvelopeError when the key is another's or something was
    changed; the two cannot be distinguished.
    """
    parsed = _parse(fields)
    shared = key.agree(parsed.ephemeral)
    for tried in DIALECTS if dialect is None else (dialect,):
        seen = _Seen(tried)
        try:
            for secret, plain in _decrypted(tried, shared, parsed, read_pieces()):
                seen.see(secret, plain)
        except InvalidTag:
            continue
        return Verified(tried, *seen.result())
    raise EnvelopeError(
        "the payload cannot be decrypted: it was encrypted for another key, or it was changed",
        "Ask the sender whose public key was used, and compare the envelope with theirs.",
    )


def decrypt(
    proved: str | Verified | None,
    key: RecipientKey,
    fields: object,
    read_pieces: Callable[[], Iterable[bytes]],
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    """Returns (path below payload/, size, pieces) of each file, after all of it was verified.

    `proved` is the result of `verify` for these fields and this key; with a dialect, or None,
    `verify` is called here. The rest of a file is skipped when the next one is read. `read_pieces`
    gives the ciphertext from its beginning, at each call. Raises EnvelopeError, as `verify`, before
    it returns; later for data that are no tar, or for a ciphertext that changed meanwhile.
    """
    if not isinstance(proved, Verified):
        proved = verify(proved, key, fields, read_pieces)
    parsed = _parse(fields)
    return _files(proved.dialect, key.agree(parsed.ephemeral), parsed, read_pieces)


def _files(
    dialect: str, shared: bytes, parsed: _Parsed, read_pieces: Callable[[], Iterable[bytes]]
) -> Iterator[tuple[str, int, Iterator[bytes]]]:
    plain = (piece for _, piece in _decrypted(dialect, shared, parsed, read_pieces()))
    try:
        yield from untar(dialect, plain)
    except InvalidTag:
        raise EnvelopeError("the payload was changed while it was decrypted") from None


def _decrypted(
    dialect: str, shared: bytes, parsed: _Parsed, pieces: Iterable[bytes]
) -> Iterator[tuple[bytes, bytes]]:
    """Yields (ciphertext, plaintext) piece by piece. Raises InvalidTag after the last."""
    cipher = Cipher(AES(derive(dialect, shared)), GCM(parsed.iv)).decryptor()
    size = 0
    for secret in pieces:
        size += len(secret)
        if size > PLAIN_MAX:
            raise InvalidTag
        yield secret, cipher.update(secret)
    cipher.finalize_with_tag(parsed.tag)
