"""Signs and verifies manifest.jws, a signature over the exact bytes of manifest.json.

Wanted: the form that jmix-rs writes: a compact JWS, Ed25519, whose payload is the manifest.
Guaranteed: one algorithm; a header that asks for more (another algorithm, "none", critical
extensions, an unencoded payload) is refused. A change of any byte of the JWS or of the manifest is
found: base64url is accepted in its canonical form only.
Still wrong: there is no chain of certificates: the reader has to know whose key it is.

Sources: RFC 7515 (JWS, compact serialization §7.1), RFC 8037 §3.1 (EdDSA).
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, NoReturn

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fastjmix.errors import EnvelopeError
from fastjmix.jmix import strict_json
from fastjmix.jmix.keys import SigningKey

NAME: Final = "manifest.jws"
HEADER: Final = b'{"alg":"EdDSA","typ":"JWS","crv":"Ed25519"}'
HEADER_MAX: Final = 1024
"""Bytes of a header in base64url; that of fastjmix has 59."""
SIGNATURE_BYTES: Final = 64


def sign_manifest(manifest: bytes, key: SigningKey) -> bytes:
    """Returns the text of manifest.jws for these bytes of manifest.json, without a newline."""
    signed = _encode(HEADER) + b"." + _encode(manifest)
    return signed + b"." + _encode(key.sign(signed))


def verify_manifest(jws: bytes, manifest: bytes, public: bytes) -> None:
    """Raises EnvelopeError unless the JWS is right. `public`: Ed25519, 32 bytes."""
    parts = jws.split(b".", 3)
    if len(parts) != 3:
        _refuse("is not a compact JWS of three parts")
    if len(parts[0]) > HEADER_MAX:
        _refuse(f"has a header of more than {HEADER_MAX} bytes")
    _check_header(_decode(parts[0], "header"))
    payload, signature = _decode(parts[1], "payload"), _decode(parts[2], "signature")
    if len(signature) != SIGNATURE_BYTES:
        _refuse("has a signature of another size than Ed25519's, 64 bytes")
    if not is_signed(parts[0] + b"." + parts[1], signature, public):
        _refuse("its signature is not right: it was changed, or made with another key")
    if payload != manifest:
        what = "jmix-php signs the manifest as it was before its last two changes."
        _refuse("its signature is right, but it signs other bytes than manifest.json", what)


def is_signed(data: bytes, signature: bytes, public: bytes) -> bool:
    """Returns whether this is the Ed25519 signature (64 bytes) by the key (32 bytes) of the
    data."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _check_header(data: bytes) -> None:
    try:
        header = strict_json.parse(data, "its header")
    except EnvelopeError as problem:
        _refuse(f"has a header that is not accepted: {problem.message}")
    if not isinstance(header, dict):
        _refuse("has a header that is not a JSON object")
    if header.get("alg") != "EdDSA":
        _refuse(f'has "alg" {_shown(header.get("alg"))} in its header; only EdDSA is accepted')
    if header.get("crv", "Ed25519") != "Ed25519":
        _refuse(f'has "crv" {_shown(header.get("crv"))} in its header; only Ed25519 is accepted')
    for name in ("crit", "b64"):
        if name in header:
            _refuse(f'has "{name}" in its header, which changes what is signed')


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(text: bytes, part: str) -> bytes:
    try:
        found = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if not found or _encode(found) != text:
        _refuse(f"has a {part} that is not base64url")
    return found


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:40]


def _refuse(what: str, hint: str = "") -> NoReturn:
    raise EnvelopeError(f"{NAME}: {what}", hint)
