"""Reads certificates and their keys as TLS will use them, before anything listens with them.

Wanted: a certificate and a key that do not belong together are a fault at the start. Else the API
would end and be started again, for ever.
Guaranteed: the API serves with `server_context` too, so a pair that passes here is accepted there.
Nobody is asked for a password: a key that needs one is refused.
A certificate that has expired, or expires soon, is a warning and no fault: to refuse the start
would stop the reception of images for it.
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import time
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, NamedTuple

NEEDS_PASSWORD: Final = "a key that needs a password, which nobody can type in here"
NO_CERTIFICATE: Final = "no certificate in PEM is in it"
NOT_PINNED: Final = -1
"""The verify_code of a certificate that is trusted, and whose key is not a pinned one."""


EXPIRES_SOON_DAYS: Final = 30
"""A certificate that expires earlier is a warning: renewing one takes a hospital some weeks."""

_DAY_SECS: Final = 86_400


class Expiry(NamedTuple):
    """When a certificate ends (Unix seconds), and its subject."""

    at: float
    subject: str

    def days(self, now: float | None = None) -> float:
        """Returns the days that are left; less than 0: it has expired."""
        return (self.at - (time.time() if now is None else now)) / _DAY_SECS

    def soon(self) -> bool:
        """Returns whether it has expired, or will within EXPIRES_SOON_DAYS."""
        return self.days() < EXPIRES_SOON_DAYS

    def words(self) -> str:
        """Returns when it expires, in words, with its subject."""
        day = datetime.fromtimestamp(self.at, UTC).date().isoformat()
        left = self.days()
        when = f"expired on {day}" if left < 0 else f"expires on {day}, in {int(left)} days"
        return f"the certificate of {self.subject} {when}"


def expiries(path: Path) -> list[Expiry]:
    """Returns the ends of the certificates in a PEM file, the first one first; [] where none can be
    read."""
    from cryptography import x509  # some 60 ms: only where there are certificates

    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []
    return sorted(
        Expiry(one.not_valid_after_utc.timestamp(), one.subject.rfc4514_string() or "no name")
        for one in found
    )


def chain_warning(path: Path) -> str | None:
    """Returns a warning where a certificate of a server's chain has expired, or will soon."""
    return _warning(path, expiries(path)[:1])


def authorities_warning(path: Path) -> str | None:
    """Returns a warning where the authority that expires last has expired, or will soon: while one
    replaces another, both are in the file."""
    return _warning(path, expiries(path)[-1:])


def _warning(path: Path, found: list[Expiry]) -> str | None:
    return next((f"{path}: {one.words()}" for one in found if one.soon()), None)


def client_context(
    ca_file: Path | None,
    certificate: Path | None = None,
    key: Path | None = None,
    pins: Collection[str] = (),
) -> ssl.SSLContext:
    """Returns a client's context, for TLS 1.2 or later: of the authorities in `ca_file` and no
    other, or of the system's. With `certificate` and its `key` the client presents that; with
    `pins` (Transport.pins) the server's key must be one of them. Raises ssl.SSLError, which names
    the file."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as problem:
        raise ssl.SSLError(f"ca_file {ca_file}: {problem.strerror}") from problem
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate is not None and key is not None:
        try:
            context.load_cert_chain(certificate, key, password=_refuse)
        except _NeedsPassword:
            raise ssl.SSLError(f"client_key_path {key}: {NEEDS_PASSWORD}") from None
        except OSError as problem:
            words = problem.strerror or str(problem)
            raise ssl.SSLError(f"client_cert_path {certificate}: {words}") from problem
    if pins:
        context.sslobject_class = _pinned(frozenset(pins))
    return context


def public_key_pin(certificate: bytes) -> str:
    """Returns the SHA-256 of a certificate's SubjectPublicKeyInfo in base64 (RFC 7469 §2.4).
    `certificate` is in DER. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(info).digest()).decode()


def _pinned(pins: frozenset[str]) -> type[ssl.SSLObject]:
    """Returns a TLS object whose handshake fails for a server of another key, before a byte of
    ours goes."""

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = public_key_pin(self.getpeercert(binary_form=True) or b"")
            if found not in pins:
                problem = ssl.SSLCertVerificationError(f"its public key is {found}, and not pinned")
                problem.verify_code, problem.verify_message = NOT_PINNED, str(problem.args[0])
                raise problem

    return Pinned


class _NeedsPassword(Exception):
    """OpenSSL asks for the password of a key."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Returns a server's context, for TLS 1.2 or later. Raises OSError (ssl.SSLError is one)."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_refuse)
    except _NeedsPassword:
        raise OSError(f"{key}: {NEEDS_PASSWORD}") from None
    return context


def _refuse() -> bytes:
    raise _NeedsPassword


def pair_fault(certificate: Path, key: Path) -> tuple[Literal["cert_path", "key_path"], str]:
    """Returns which of the two files is wrong, and how; "" for how when neither is."""
    try:
        server_context(certificate, key)
    except ssl.SSLError as problem:
        reason = problem.reason or ""
        if not holds_certificates(certificate):
            return "cert_path", NO_CERTIFICATE
        if "MISMATCH" in reason or reason == "NO_CERTIFICATE_ASSIGNED":  # of its kind
            return "key_path", "the key of another certificate"
        if reason.startswith(("EE_", "CA_")):  # a key or a digest that OpenSSL calls too weak
            return "cert_path", f"a certificate that TLS does not take ({reason})"
        return "key_path", f"no private key in PEM that TLS can use is in it ({reason or problem})"
    except OSError as problem:
        needs = NEEDS_PASSWORD in str(problem)
        return "key_path", NEEDS_PASSWORD if needs else problem.strerror or str(problem)
    return "cert_path", ""


def holds_certificates(path: Path) -> bool:
    """Returns whether it is a file of certificates in PEM. Raises OSError if it is unreadable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        return False
    return True
